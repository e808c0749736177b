// The bodies of ScreenKernels (tiles.h) for one instruction set; included behind tiles_impl.h, by the same files.
namespace mmpt {
namespace MMPT_SET {
namespace {

// Codes of 16 ids lie side by side, four dimensions of each: byte (k / 4 * 16 + i) * 4 + k % 4 is dimension k of id i.
// This is for processors without products of bytes, where a screen does not pay (see kScreen): short, not fast.
void screen_dots(const uint8_t* codes, const int8_t* x, int64_t rows, int64_t depth, int32_t* out) {
  for (int64_t tile = 0; tile < kScreenIds / 16; ++tile, codes += 16 * depth)
    for (int64_t r = 0; r < rows; ++r) {
      int32_t sum[16] = {};
      for (int64_t k = 0; k < depth; k += 4)
        for (int i = 0; i < 16; ++i)
          for (int j = 0; j < 4; ++j) sum[i] += codes[k * 16 + i * 4 + j] * x[r * depth + k + j];
      std::memcpy(out + r * kScreenIds + tile * 16, sum, sizeof(sum));
    }
}

void screen_limits(const int32_t* coarse, const int32_t* fine, const Screened& row, const float* scale,
                   const float* bound, float* least, float* most) {
  using S = Simd<float>;
  for (int at = 0; at < kScreenIds; at += S::lanes) {
    typedef int32_t iloose __attribute__((vector_size(kBytes), aligned(4), may_alias));
    const ivec high = *reinterpret_cast<const iloose*>(coarse + at) - row.coarse_shift;
    const ivec low = *reinterpret_cast<const iloose*>(fine + at) - row.fine_shift;
    const fvec sum = __builtin_convertvector(high, fvec) * float(kFine) + __builtin_convertvector(low, fvec);
    const fvec middle = sum * row.unit * S::load(scale + at);
    // And what falls under the smallest number: at most 2^-150 in a bound, which a row's length of 1e15 multiplies.
    const fvec reach = S::load(bound + at) * row.norm + 1e-29f;
    S::store(least + at, middle - reach);
    S::store(most + at, middle + reach);
  }
}

uint64_t screen_above(const float* value, float limit) {
  using S = Simd<float>;
  uint64_t mask = 0;
  for (int at = 0; at < 64; at += S::lanes) mask |= lanes_set(S::load(value + at) >= limit) << at;
  return mask;
}

QuantisedRow screen_quantise(const float* w, int64_t depth, uint8_t* codes) {
  using S = Simd<float>;
  typedef uint8_t bytes __attribute__((vector_size(kBytes / 4), aligned(1), may_alias));
  fvec tops{}, odd{};
  for (int64_t k = 0; k < depth; k += S::lanes) {
    const fvec v = S::load(w + k), size = v < 0.f ? -v : v;
    tops = size > tops ? size : tops;
    odd += v * 0.f;  // NaN once v is infinite or NaN
  }
  float top = 0, wrong = 0;
  for (int i = 0; i < S::lanes; ++i) top = tops[i] > top ? tops[i] : top, wrong += odd[i];
  QuantisedRow row{0, 0, 0};
  if (wrong != 0 || top < 1e-30f) {  // 1 / scale would overflow
    std::memset(codes, kCodeZero, depth);
    row.error = row.norm = wrong != 0 ? std::numeric_limits<float>::infinity() : top * std::sqrt(float(depth));
    return row;
  }
  row.scale = top / 127.f;
  const fvec inverse = S::all(127.f / top), magic = S::all(12582912.f);  // 1.5 * 2^23: adding it rounds to an integer
  fvec error{}, norm{};
  for (int64_t k = 0; k < depth; k += S::lanes) {
    const fvec t = S::load(w + k) * inverse;
    const fvec q = (t + magic) - magic;
    const fvec rest = t - q;
    error += rest * rest;
    norm += t * t;
    *reinterpret_cast<bytes*>(codes + k) = __builtin_convertvector(__builtin_convertvector(q, ivec) + kCodeZero, bytes);
  }
  for (int i = 0; i < S::lanes; ++i) row.error += error[i], row.norm += norm[i];
  row.error = row.scale * std::sqrt(row.error);
  row.norm = row.scale * std::sqrt(row.norm);
  return row;
}

constexpr ScreenKernels kScreen{false, screen_dots, screen_limits, screen_above, screen_quantise};

}  // namespace
}  // namespace MMPT_SET
}  // namespace mmpt
