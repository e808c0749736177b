// Products of codes by AVX512_VNNI: vpdpbusd multiplies four unsigned codes with four signed bytes a lane.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,bmi,bmi2")
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "tiles.h"

namespace mmpt {
namespace {

constexpr int kTiles = 4;  // of 16 ids, walked together

template <int R>
void rows_of(const uint8_t* codes, const int8_t* x, int64_t depth, int32_t* out) {
  __m512i sum[R][kTiles];
  for (int r = 0; r < R; ++r)
    for (int t = 0; t < kTiles; ++t) sum[r][t] = _mm512_setzero_si512();
  for (int64_t k = 0; k < depth; k += 4) {
    __m512i four[kTiles];
    for (int t = 0; t < kTiles; ++t) four[t] = _mm512_loadu_si512(codes + (t * depth + k) * 16);
    for (int r = 0; r < R; ++r) {
      int32_t value;
      std::memcpy(&value, x + r * depth + k, 4);
      const __m512i all = _mm512_set1_epi32(value);
      for (int t = 0; t < kTiles; ++t) sum[r][t] = _mm512_dpbusd_epi32(sum[r][t], four[t], all);
    }
  }
  for (int r = 0; r < R; ++r)
    for (int t = 0; t < kTiles; ++t) _mm512_storeu_si512(out + r * kScreenIds + t * 16, sum[r][t]);
}

}  // namespace

void screen_dots_vnni(const uint8_t* codes, const int8_t* x, int64_t rows, int64_t depth, int32_t* out) {
  for (int64_t id = 0; id < kScreenIds; id += 16 * kTiles) {
    int64_t r = 0;
    for (; r + 4 <= rows; r += 4) rows_of<4>(codes + id * depth, x + r * depth, depth, out + r * kScreenIds + id);
    for (; r < rows; ++r) rows_of<1>(codes + id * depth, x + r * depth, depth, out + r * kScreenIds + id);
  }
}

}  // namespace mmpt
#endif
