// The bodies of tiles.h, compiled once for every instruction set. A file that includes this defines MMPT_SET (the
// namespace) and MMPT_VECTOR_BYTES, and sets the compiler's target before any header.
//
// Vectors are the compiler's own (vector_size), so one text serves SSE2, NEON, AVX2 and AVX-512. The products keep
// MR x NV accumulators in registers, walk k in slices that leave b's panel in L1, and read the weight only as it lies
// in memory. Measured at H = 1024 on one Sapphire Rapids core: see mmpt/bench/results.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#if MMPT_VECTOR_BYTES > 16
#include <immintrin.h>
#endif

#include "philox.h"
#include "tiles.h"

namespace mmpt {
namespace MMPT_SET {
namespace {

constexpr int kBytes = MMPT_VECTOR_BYTES;
constexpr int kSlice = 64;  // k of one slice: b's panel is 16 KiB of fp32, a's part as much, and L1 holds 32 or 48
constexpr int kPanel = 64;  // columns of b's panel

template <typename T>
struct Simd {
  static constexpr int lanes = kBytes / sizeof(T);
  typedef T vec __attribute__((vector_size(kBytes)));
  typedef T loose __attribute__((vector_size(kBytes), aligned(alignof(T)), may_alias));
  static inline vec load(const T* p) { return *reinterpret_cast<const loose*>(p); }
  static inline void store(T* p, vec v) { *reinterpret_cast<loose*>(p) = v; }
  static inline vec all(T x) { return x - vec{}; }
};
typedef int32_t ivec __attribute__((vector_size(kBytes)));
typedef float fvec __attribute__((vector_size(kBytes)));

// Bit i is set where lane i of a comparison is true.
inline uint64_t lanes_set(ivec comparison) {
#if MMPT_VECTOR_BYTES == 64
  return _mm512_movepi32_mask((__m512i)comparison);
#elif MMPT_VECTOR_BYTES == 32
  return unsigned(_mm256_movemask_ps((__m256)comparison));
#else
  uint64_t mask = 0;
  for (int lane = 0; lane < kBytes / 4; ++lane) mask |= uint64_t(comparison[lane] & 1) << lane;
  return mask;
#endif
}

// Vectors of a column step: 64 lanes with 32 registers, 16 lanes with 16.
template <typename T>
constexpr int kMaxVectors = kBytes == 64 ? 4 : 16 / Simd<T>::lanes;
template <typename T>
constexpr int kRows = kBytes == 64 ? 6 : (12 / kMaxVectors<T> > 0 ? 12 / kMaxVectors<T> : 1);

template <typename T, int MR, int NV>
inline void micro(const T* a, int64_t a_row, int64_t a_step, const T* b, int64_t ldb, T* c, int64_t ldc, int64_t k,
                  bool accumulate) {
  using S = Simd<T>;
  typename S::vec acc[MR][NV];
  for (int i = 0; i < MR; ++i)
    for (int j = 0; j < NV; ++j) acc[i][j] = accumulate ? S::load(c + i * ldc + j * S::lanes) : S::all(T(0));
  for (int64_t at = 0; at < k; ++at) {
    // The next rows of a: a row is its own memory page at H = 1024, which no hardware prefetcher crosses.
    if (at % (64 / sizeof(T)) == 0)
      for (int i = 0; i < MR; ++i) __builtin_prefetch(a + (MR + i) * a_row + at * a_step);
    typename S::vec column[NV];
    for (int j = 0; j < NV; ++j) column[j] = S::load(b + at * ldb + j * S::lanes);
    for (int i = 0; i < MR; ++i) {
      const typename S::vec value = S::all(a[i * a_row + at * a_step]);
      for (int j = 0; j < NV; ++j) acc[i][j] += value * column[j];
    }
  }
  for (int i = 0; i < MR; ++i)
    for (int j = 0; j < NV; ++j) S::store(c + i * ldc + j * S::lanes, acc[i][j]);
}

template <typename T, int NV>
void micro_rows(const T* a, int64_t a_row, int64_t a_step, const T* b, int64_t ldb, T* c, int64_t ldc, int64_t m,
                int64_t k, bool accumulate) {
  constexpr int MR = kRows<T>;
  int64_t i = 0;
  for (; i + MR <= m; i += MR) micro<T, MR, NV>(a + i * a_row, a_row, a_step, b, ldb, c + i * ldc, ldc, k, accumulate);
  for (; i + 2 <= m; i += 2) micro<T, 2, NV>(a + i * a_row, a_row, a_step, b, ldb, c + i * ldc, ldc, k, accumulate);
  if (i < m) micro<T, 1, NV>(a + i * a_row, a_row, a_step, b, ldb, c + i * ldc, ldc, k, accumulate);
}

template <typename T>
void product(const T* a, int64_t a_row, int64_t a_step, const T* b, int64_t ldb, T* c, int64_t ldc, int64_t m,
             int64_t n, int64_t k, bool accumulate) {
  constexpr int step = kMaxVectors<T> * Simd<T>::lanes;
  alignas(64) T panel[kSlice * kPanel];
  for (int64_t k0 = 0; k0 < k; k0 += kSlice) {
    const int64_t depth = k - k0 < kSlice ? k - k0 : kSlice;
    const bool add = accumulate || k0 > 0;
    for (int64_t j0 = 0; j0 < n; j0 += kPanel) {
      const int64_t width = n - j0 < kPanel ? n - j0 : kPanel;
      const T* source = b + k0 * ldb + j0;
      int64_t lds = ldb;
      if (ldb > kPanel) {  // far rows fall into few cache sets: copy them side by side
        for (int64_t at = 0; at < depth; ++at) std::memcpy(panel + at * width, source + at * ldb, width * sizeof(T));
        source = panel, lds = width;
      }
      const T* left = a + k0 * a_step;
      int64_t j = 0;
      for (; j + step <= width; j += step)
        micro_rows<T, kMaxVectors<T>>(left, a_row, a_step, source + j, lds, c + j0 + j, ldc, m, depth, add);
      if constexpr (step > kLaneStep)
        for (; j < width; j += kLaneStep)
          micro_rows<T, kLaneStep / Simd<T>::lanes>(left, a_row, a_step, source + j, lds, c + j0 + j, ldc, m, depth,
                                                    add);
    }
  }
}

// exp for x <= ~1: 2^n * p(r) with |r| <= ln2 / 2, 2 ulp; 0 under -87; NaN stays NaN.
inline fvec exponential(fvec x) {
  using S = Simd<float>;
  const fvec magic = S::all(12582912.f);  // 1.5 * 2^23: adding it rounds to an integer
  const fvec n = (x * S::all(1.44269504088896341f) + magic) - magic;
  const fvec r = (x - n * S::all(0.693359375f)) - n * S::all(-2.12194440e-4f);
  fvec p = S::all(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const ivec exponent = __builtin_convertvector(n, ivec) + 127;
  const fvec y = p * (fvec)(exponent << 23);
  return x < -87.f ? fvec{} : y;
}

template <typename T>
inline typename Simd<T>::vec exponential_of(typename Simd<T>::vec x) {
  if constexpr (sizeof(T) == 4) {
    return exponential(x);
  } else {
    for (int i = 0; i < Simd<T>::lanes; ++i) x[i] = std::exp(x[i]);
    return x;
  }
}

// cap * tanh(z / cap): a series near 0, where (1 - e) / (1 + e) would cancel.
template <typename T>
inline typename Simd<T>::vec capped(typename Simd<T>::vec z, T cap) {
  using S = Simd<T>;
  typename S::vec y = z / cap;
  if constexpr (sizeof(T) == 4) {
    const fvec size = y < 0.f ? -y : y;
    const fvec e = exponential(size * -2.f);
    const fvec far = (1.f - e) / (1.f + e);
    const fvec q = y * y;
    const fvec near = y * (1.f + q * (-1.f / 3 + q * (2.f / 15 + q * (-17.f / 315 + q * (62.f / 2835)))));
    y = size < 0.25f ? near : (y < 0.f ? -far : far);
  } else {
    for (int i = 0; i < S::lanes; ++i) y[i] = std::tanh(y[i]);
  }
  return y * cap;
}

template <typename T>
void softcap(T* z, int64_t count, T cap) {
  using S = Simd<T>;
  for (int64_t i = 0; i < count; i += S::lanes) S::store(z + i, capped<T>(S::load(z + i), cap));
}

template <typename T>
void online(T* z, int64_t n, int64_t lanes, T cap, int64_t first_id, OnlineState<T>& state) {
  using S = Simd<T>;
  for (int64_t j = 0; j < lanes; j += S::lanes) {
    const typename S::vec old = S::load(state.max + j);
    typename S::vec top = old, logits{}, at = S::all(T(-1));
    for (int64_t v = 0; v < n; ++v) {
      const typename S::vec value = S::load(z + v * lanes + j);
      const auto above = value > top;  // strict: among equals the lower id stays
      top = above ? value : top;
      at = above ? S::all(T(v)) : at;
      logits += value;
    }
    typename S::vec total{};
    for (int64_t v = 0; v < n; ++v) {
      const typename S::vec value = S::load(z + v * lanes + j);
      typename S::vec e = exponential_of<T>(value - top);
      total += e;
      if (cap > 0) e *= T(1) - (value / cap) * (value / cap);
      S::store(z + v * lanes + j, e);
    }
    const typename S::vec shrink = exponential_of<T>(old - top);
    S::store(state.rescale + j, shrink);
    S::store(state.max + j, top);
    S::store(state.sum + j, S::load(state.sum + j) * shrink + total);
    S::store(state.logit_sum + j, S::load(state.logit_sum + j) + logits);
    for (int i = 0; i < S::lanes; ++i)
      if (at[i] >= 0) state.best[j + i] = int32_t(first_id) + int32_t(at[i]);
  }
}

template <typename T>
void gradient(T* z, int64_t n, int64_t lanes, T cap, const GradientLanes<T>& of) {
  using S = Simd<T>;
  for (int64_t j = 0; j < lanes; j += S::lanes) {
    const typename S::vec lse = S::load(of.lse + j), slope = S::load(of.slope + j), shift = S::load(of.shift + j);
    for (int64_t v = 0; v < n; ++v) {
      const typename S::vec value = S::load(z + v * lanes + j);
      typename S::vec d = exponential_of<T>(value - lse) * slope - shift;
      if (cap > 0) d *= T(1) - (value / cap) * (value / cap);
      S::store(z + v * lanes + j, d);
    }
  }
}

template <typename T>
void rescale(T* acc, int64_t rows, int64_t columns, const T* factor) {
  using S = Simd<T>;
  for (int64_t i = 0; i < rows; ++i) {
    if (factor[i] == T(1)) continue;
    for (int64_t j = 0; j < columns; j += S::lanes)
      S::store(acc + i * columns + j, S::load(acc + i * columns + j) * factor[i]);
  }
}

template <typename T>
constexpr TileKernels<T> kTiles{product<T>, softcap<T>, online<T>, gradient<T>, rescale<T>};

// ---- sampling -------------------------------------------------------------------------------------------------

constexpr int kParts = 16;  // partial sums of a dot product
constexpr int kPartVectors = kParts / Simd<float>::lanes;

inline void load_weights(const float* p, fvec* out) {
  for (int i = 0; i < kPartVectors; ++i) out[i] = Simd<float>::load(p + i * Simd<float>::lanes);
}

inline void load_weights(const uint16_t* p, fvec* out) {
  typedef uint16_t half __attribute__((vector_size(kBytes / 2), aligned(2), may_alias));
  typedef uint32_t word __attribute__((vector_size(kBytes)));
  for (int i = 0; i < kPartVectors; ++i) {
    const word bits = __builtin_convertvector(*reinterpret_cast<const half*>(p + i * Simd<float>::lanes), word);
    out[i] = (fvec)(bits << 16);
  }
}

inline float as_float(float value) { return value; }
inline float as_float(uint16_t bits) {
  const uint32_t word = uint32_t(bits) << 16;
  float out;
  std::memcpy(&out, &word, 4);
  return out;
}

// 16 partial sums folded by halves: 8 apart, then 4, 2, 1.
inline float fold(const fvec* parts) {
  float value[kParts];
  for (int i = 0; i < kPartVectors; ++i) Simd<float>::store(value + i * Simd<float>::lanes, parts[i]);
  for (int width = kParts / 2; width; width /= 2)
    for (int i = 0; i < width; ++i) value[i] += value[i + width];
  return value[0];
}

#if MMPT_VECTOR_BYTES == 64
// Of x and y, groups of 2 * Apart lanes each: the lower half of every group plus its upper half.
template <int Apart>
inline fvec halves(fvec x, fvec y) {
  ivec low{};
  for (int j = 0; j < kParts; ++j) low[j] = j / Apart * 2 * Apart + j % Apart;
  return __builtin_shuffle(x, y, low) + __builtin_shuffle(x, y, low + Apart);
}

// fold() of 16 at once, in the same order of additions: parts[i] becomes lane i of out.
inline void fold_all(const fvec* parts, float* out) {
  fvec eight[8], four[4], two[2];
  for (int i = 0; i < 8; ++i) eight[i] = halves<8>(parts[2 * i], parts[2 * i + 1]);
  for (int i = 0; i < 4; ++i) four[i] = halves<4>(eight[2 * i], eight[2 * i + 1]);
  for (int i = 0; i < 2; ++i) two[i] = halves<2>(four[2 * i], four[2 * i + 1]);
  Simd<float>::store(out, halves<1>(two[0], two[1]));
}
#endif

template <typename W, int WR, int XR>
inline void dots_block(const W* w, int64_t ldw, const float* x, int64_t ldx, int64_t k, float* out, int64_t ldo) {
  fvec acc[WR][XR][kPartVectors] = {};
  int64_t at = 0;
  for (; at + kParts <= k; at += kParts) {
    fvec right[XR][kPartVectors];
    for (int b = 0; b < XR; ++b) load_weights(x + b * ldx + at, right[b]);
    for (int i = 0; i < WR; ++i) {
      fvec left[kPartVectors];
      load_weights(w + i * ldw + at, left);
      for (int b = 0; b < XR; ++b)
        for (int p = 0; p < kPartVectors; ++p) acc[i][b][p] += left[p] * right[b][p];
    }
  }
  float sums[WR][XR];
#if MMPT_VECTOR_BYTES == 64
  if constexpr (WR * XR == kParts) fold_all(&acc[0][0][0], &sums[0][0]);
  else
#endif
    for (int i = 0; i < WR; ++i)
      for (int b = 0; b < XR; ++b) sums[i][b] = fold(acc[i][b]);
  for (int i = 0; i < WR; ++i)
    for (int b = 0; b < XR; ++b) {
      float sum = sums[i][b];
      for (int64_t rest = at; rest < k; ++rest) sum = std::fma(as_float(w[i * ldw + rest]), x[b * ldx + rest], sum);
      out[b * ldo + i] = sum;
    }
}

template <typename W, int XR>
void dots_rows(const W* w, int64_t ldw, int64_t n, const float* x, int64_t ldx, int64_t k, float* out, int64_t ldo) {
  constexpr int WR = kBytes == 64 ? 4 : 2;
  int64_t i = 0;
  for (; i + WR <= n; i += WR) dots_block<W, WR, XR>(w + i * ldw, ldw, x, ldx, k, out + i, ldo);
  for (; i < n; ++i) dots_block<W, 1, XR>(w + i * ldw, ldw, x, ldx, k, out + i, ldo);
}

// Weight rows are taken a few at a time, so that all of the batch finds them in the cache.
template <typename W>
void dots(const W* w, int64_t ldw, int64_t n, const float* x, int64_t ldx, int64_t batch, int64_t k, float* out,
          int64_t ldo) {
  constexpr int XR = kBytes == 64 ? 4 : 2;
  constexpr int64_t kRowsAtOnce = 64;
  for (int64_t first = 0; first < n; first += kRowsAtOnce, w += kRowsAtOnce * ldw, out += kRowsAtOnce) {
    const int64_t rows = n - first < kRowsAtOnce ? n - first : kRowsAtOnce;
    int64_t b = 0;
    for (; b + XR <= batch; b += XR) dots_rows<W, XR>(w, ldw, rows, x + b * ldx, ldx, k, out + b * ldo, ldo);
    for (; b < batch; ++b) dots_rows<W, 1>(w, ldw, rows, x + b * ldx, ldx, k, out + b * ldo, ldo);
  }
}

typedef uint64_t wide __attribute__((vector_size(kBytes)));

// Lower halves times a 32-bit factor.
inline wide low_product(wide x, uint32_t factor) {
#if MMPT_VECTOR_BYTES == 64
  return (wide)_mm512_mul_epu32((__m512i)x, _mm512_set1_epi64(factor));
#elif MMPT_VECTOR_BYTES == 32
  return (wide)_mm256_mul_epu32((__m256i)x, _mm256_set1_epi64x(factor));
#else
  return (x & kPhiloxMask) * uint64_t(factor);
#endif
}

// Four words an id block, in the lower halves of a, b, c, d; the upper halves are left as they fall.
void words(uint64_t seed, uint64_t offset, uint64_t first, int64_t count, uint32_t* out) {
  constexpr int width = kBytes / 8;
  wide lane, even, odd;
  for (int i = 0; i < width; ++i) {
    lane[i] = i;
    even[i] = i / 2 + (i % 2) * width;
    odd[i] = even[i] + width / 2;
  }
  int64_t i = 0;
  for (; i + 4 * width <= count; i += 4 * width) {
    wide a = lane + (first + i) / 4, b = (offset & kPhiloxMask) - wide{}, c = (offset >> 32) - wide{}, d{};
    uint64_t k0 = seed & kPhiloxMask, k1 = seed >> 32;
    for (int round = 0; round < kPhiloxRounds; ++round) {
      const wide left = low_product(a, kPhiloxMulA), right = low_product(c, kPhiloxMulB);
      a = (right >> 32) ^ b ^ k0;
      b = right;
      c = (left >> 32) ^ d ^ k1;
      d = left;
      k0 = (k0 + kPhiloxWeylA) & kPhiloxMask, k1 = (k1 + kPhiloxWeylB) & kPhiloxMask;
    }
    const wide ab = (a & kPhiloxMask) | (b << 32), cd = (c & kPhiloxMask) | (d << 32);
    const wide halves_of[2] = {__builtin_shuffle(ab, cd, even), __builtin_shuffle(ab, cd, odd)};
    std::memcpy(out + i, halves_of, sizeof(halves_of));
  }
  for (; i < count; i += 4) philox_block(seed, offset, (first + i) / 4, out + i);
}

// An upper bound of the noise is -log(u), since -log1p(-u) >= u; the logarithm here is within 1e-4 of it, and
// what is added covers that and fp32 rounding.
uint64_t contenders(const float* value, const uint32_t* word, int64_t count, float inverse_temperature, float best) {
  using S = Simd<float>;
  uint64_t mask = 0;
  for (int64_t at = 0; at < count; at += S::lanes) {
    typedef uint32_t uvec __attribute__((vector_size(kBytes)));
    typedef uint32_t uloose __attribute__((vector_size(kBytes), aligned(4), may_alias));
    const uvec bits = *reinterpret_cast<const uloose*>(word + at);
    const fvec x = __builtin_convertvector(bits, fvec) + 0.5f;
    const ivec form = (ivec)x;
    const fvec exponent = __builtin_convertvector((form >> 23) - 127, fvec);
    const fvec m = (fvec)((form & 0x7fffff) | 0x3f800000) - 1.5f;  // log2(1.5 + m), |m| <= 1/2
    fvec p = S::all(0.04392863f);
    p = p * m - 0.08001088f;
    p = p * m + 0.14171816f;
    p = p * m - 0.3197491f;
    p = p * m + 0.96182123f;
    p = p * m + 0.5849505f;
    const fvec scaled = S::load(value + at) * inverse_temperature;
    const fvec size = scaled < 0.f ? -scaled : scaled;
    const fvec bound = scaled + (32.f - exponent - p) * 0.69314718f + size * 1e-6f + 1e-3f;
    mask |= lanes_set(bound > best) << at;
  }
  return mask;
}

constexpr SamplingKernels kSampling{dots<float>, dots<uint16_t>, words, contenders};

}  // namespace
}  // namespace MMPT_SET
}  // namespace mmpt
