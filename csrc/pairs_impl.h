// bf16 products over pairs, compiled for AVX512_BF16 (vdpbf16ps) and, with MMPT_AMX, for AMX tiles.
// Both accumulate in fp32. The weight is the a operand of the logits, so it is read as it lies in memory; as the b
// operand of d_hidden two of its rows are interleaved into a panel that stays in L1.
#include <immintrin.h>

#include <cstdint>

#if MMPT_AMX
#include "amx_scope.h"
#endif
#include "tiles.h"

namespace mmpt {
namespace MMPT_SET {
namespace {

constexpr int kPairSlice = 96;  // pairs of one slice: a panel of 96 x 64 is 24 KiB
constexpr int kPairPanel = 64;

inline __m512bh as_pairs(__m512i v) { return reinterpret_cast<__m512bh>(v); }

template <int MR, int NV>
inline void pair_micro(const uint32_t* a, int64_t lda, const uint32_t* b, int64_t ldb, float* c, int64_t ldc, int64_t k,
                       bool accumulate) {
  __m512 acc[MR][NV];
  for (int i = 0; i < MR; ++i)
    for (int j = 0; j < NV; ++j) acc[i][j] = accumulate ? _mm512_loadu_ps(c + i * ldc + 16 * j) : _mm512_setzero_ps();
  for (int64_t at = 0; at < k; ++at) {
    __m512i column[NV];
    for (int j = 0; j < NV; ++j) column[j] = _mm512_loadu_si512(b + at * ldb + 16 * j);
    for (int i = 0; i < MR; ++i) {
      const __m512i value = _mm512_set1_epi32(int(a[i * lda + at]));
      for (int j = 0; j < NV; ++j) acc[i][j] = _mm512_dpbf16_ps(acc[i][j], as_pairs(value), as_pairs(column[j]));
    }
  }
  for (int i = 0; i < MR; ++i)
    for (int j = 0; j < NV; ++j) _mm512_storeu_ps(c + i * ldc + 16 * j, acc[i][j]);
}

template <int NV>
void pair_rows(const uint32_t* a, int64_t lda, const uint32_t* b, int64_t ldb, float* c, int64_t ldc, int64_t m,
               int64_t k, bool accumulate) {
  int64_t i = 0;
  for (; i + 6 <= m; i += 6) pair_micro<6, NV>(a + i * lda, lda, b, ldb, c + i * ldc, ldc, k, accumulate);
  for (; i + 2 <= m; i += 2) pair_micro<2, NV>(a + i * lda, lda, b, ldb, c + i * ldc, ldc, k, accumulate);
  if (i < m) pair_micro<1, NV>(a + i * lda, lda, b, ldb, c + i * ldc, ldc, k, accumulate);
}

#if MMPT_AMX
// c [32][32] of two by two tiles: 0..3 accumulate, 4 and 5 hold a, 6 and 7 hold b.
inline void amx_32x32(const uint32_t* a, int64_t lda, const uint32_t* b, int64_t ldb, float* c, int64_t ldc, int64_t k,
                      bool accumulate) {
  const int64_t c_bytes = ldc * 4, a_bytes = lda * 4, b_bytes = ldb * 4;
  if (accumulate) {
    _tile_loadd(0, c, c_bytes);
    _tile_loadd(1, c + 16, c_bytes);
    _tile_loadd(2, c + 16 * ldc, c_bytes);
    _tile_loadd(3, c + 16 * ldc + 16, c_bytes);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int64_t at = 0; at < k; at += 16) {
    _tile_loadd(4, a + at, a_bytes);
    _tile_loadd(6, b + at * ldb, b_bytes);
    _tile_loadd(7, b + at * ldb + 16, b_bytes);
    _tile_loadd(5, a + 16 * lda + at, a_bytes);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, c, c_bytes);
  _tile_stored(1, c + 16, c_bytes);
  _tile_stored(2, c + 16 * ldc, c_bytes);
  _tile_stored(3, c + 16 * ldc + 16, c_bytes);
}

inline int64_t amx_rows(const uint32_t* a, int64_t lda, const uint32_t* b, int64_t ldb, float* c, int64_t ldc,
                        int64_t m, int64_t width, int64_t k, bool accumulate) {
  int64_t i = 0;
  for (; i + 32 <= m; i += 32)
    for (int64_t j = 0; j < width; j += 32)
      amx_32x32(a + i * lda, lda, b + j, ldb, c + i * ldc + j, ldc, k, accumulate);
  return i;
}
#endif

// Rows 2k and 2k+1 of b, interleaved: panel[k][width] pairs; rows from b_rows on count as zero.
inline void interleave(const uint16_t* b, int64_t ldb, int64_t first_pair, int64_t depth, int64_t b_rows, int64_t width,
                       uint32_t* panel) {
  alignas(64) static constexpr uint16_t low[32] = {0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
                                                   8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
  const __m512i first = _mm512_load_si512(low);
  const __m512i second = _mm512_add_epi16(first, _mm512_set1_epi16(16));
  for (int64_t at = 0; at < depth; ++at) {
    const int64_t row = 2 * (first_pair + at);
    for (int64_t j = 0; j < width; j += 32) {
      const __m512i x = row < b_rows ? _mm512_loadu_si512(b + row * ldb + j) : _mm512_setzero_si512();
      const __m512i y = row + 1 < b_rows ? _mm512_loadu_si512(b + (row + 1) * ldb + j) : _mm512_setzero_si512();
      _mm512_store_si512(panel + at * width + j, _mm512_permutex2var_epi16(x, first, y));
      _mm512_store_si512(panel + at * width + j + 16, _mm512_permutex2var_epi16(x, second, y));
    }
  }
}

void pair_product(const uint32_t* a, int64_t lda, const void* b, int64_t ldb, bool b_paired, int64_t b_rows, float* c,
                  int64_t ldc, int64_t m, int64_t n, int64_t k, bool accumulate) {
  alignas(64) uint32_t panel[kPairSlice * kPairPanel];
#if MMPT_AMX
  const TileScope tiles;
#endif
  // b that is paired already is the hidden rows: a whole row of a, read in one go from memory, matters more than L1.
  const int64_t slice = b_paired ? k : kPairSlice;
  for (int64_t k0 = 0; k0 < k; k0 += slice) {
    const int64_t depth = k - k0 < slice ? k - k0 : slice;
    const bool add = accumulate || k0 > 0;
    for (int64_t j0 = 0; j0 < n; j0 += kPairPanel) {
      const int64_t width = n - j0 < kPairPanel ? n - j0 : kPairPanel;
      const uint32_t* source = static_cast<const uint32_t*>(b) + k0 * ldb + j0;
      int64_t lds = ldb;
      if (!b_paired) {
        interleave(static_cast<const uint16_t*>(b) + j0, ldb, k0, depth, b_rows, width, panel);
        source = panel, lds = width;
      }
      int64_t done = 0;
#if MMPT_AMX
      done = amx_rows(a + k0, lda, source, lds, c + j0, ldc, m, width, depth, add);
#endif
      const uint32_t* left = a + done * lda + k0;
      for (int64_t j = 0; j < width; j += width - j >= 64 ? 64 : 32) {
        float* out = c + done * ldc + j0 + j;
        if (width - j >= 64) pair_rows<4>(left, lda, source + j, lds, out, ldc, m - done, depth, add);
        else pair_rows<2>(left, lda, source + j, lds, out, ldc, m - done, depth, add);
      }
    }
  }
}

inline __m512i round_to_bf16(__m512 v) {
  return _mm512_cvtepu16_epi32(reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(v)));
}

// 16 x 16 words: out[j][i] = in[i][j].
inline void transpose(__m512i* r) {
  __m512i t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
  }
  for (int i = 0; i < 4; ++i) {
    r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
    r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
  }
}

void pair_ids(const float* values, int64_t n, int64_t lanes, uint32_t* out, int64_t ld) {
  for (int64_t u = 0; u < ld; u += 16)
    for (int64_t lane = 0; lane < lanes; lane += 16) {
      __m512i word[16];
      for (int i = 0; i < 16; ++i) {
        const int64_t row = 2 * (u + i);
        const __m512 x = row < n ? _mm512_loadu_ps(values + row * lanes + lane) : _mm512_setzero_ps();
        const __m512 y = row + 1 < n ? _mm512_loadu_ps(values + (row + 1) * lanes + lane) : _mm512_setzero_ps();
        word[i] = _mm512_or_si512(round_to_bf16(x), _mm512_slli_epi32(round_to_bf16(y), 16));
      }
      transpose(word);
      for (int i = 0; i < 16; ++i) _mm512_storeu_si512(out + (lane + i) * ld + u, word[i]);
    }
}

void pair_lanes(const float* values, int64_t count, uint16_t* out) {
  for (int64_t i = 0; i < count; i += 16)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i),
                        reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(_mm512_loadu_ps(values + i))));
}

constexpr PairKernels kPairs{pair_product, pair_ids, pair_lanes};

}  // namespace
}  // namespace MMPT_SET
}  // namespace mmpt
