// The loops of tiles.h for AVX-512, and the sets with bf16 products on top of them.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,bmi,bmi2")
#define MMPT_SET avx512
#define MMPT_VECTOR_BYTES 64
#include "tiles_impl.h"
#include "screen_impl.h"

namespace mmpt {

extern const PairKernels* const kBf16Pairs;
extern const PairKernels* const kAmxPairs;
void screen_dots_vnni(const uint8_t* codes, const int8_t* x, int64_t rows, int64_t depth, int32_t* out);
void screen_dots_amx(const uint8_t* codes, const int8_t* x, int64_t rows, int64_t depth, int32_t* out);

namespace {

ScreenKernels screen_with(decltype(ScreenKernels::dots) dots) {
  ScreenKernels kernels = avx512::kScreen;
  kernels.fast = true;
  kernels.dots = dots;
  return kernels;
}

const ScreenKernels& vnni_screen() {
  static const ScreenKernels kernels =
      __builtin_cpu_supports("avx512vnni") ? screen_with(screen_dots_vnni) : avx512::kScreen;
  return kernels;
}

}  // namespace

const InstructionSet& avx512_set() {
  static const InstructionSet set{"avx512", &avx512::kTiles<float>, &avx512::kTiles<double>,
                                  nullptr,  &avx512::kSampling,     &vnni_screen()};
  return set;
}

const InstructionSet& avx512_bf16_set() {
  static const InstructionSet set{"avx512_bf16", &avx512::kTiles<float>, &avx512::kTiles<double>,
                                  kBf16Pairs,    &avx512::kSampling,     &vnni_screen()};
  return set;
}

const InstructionSet& amx_set() {
  static const ScreenKernels screen = screen_with(screen_dots_amx);
  static const InstructionSet set{"amx",     &avx512::kTiles<float>, &avx512::kTiles<double>,
                                  kAmxPairs, &avx512::kSampling,     &screen};
  return set;
}

}  // namespace mmpt
#endif
