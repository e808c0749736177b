// The loops of tiles.h for AVX-512, and the sets with bf16 products on top of them.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,bmi,bmi2")
#define MMPT_SET avx512
#define MMPT_VECTOR_BYTES 64
#include "tiles_impl.h"

namespace mmpt {

extern const PairKernels* const kBf16Pairs;
extern const PairKernels* const kAmxPairs;

const InstructionSet& avx512_set() {
  static const InstructionSet set{"avx512", &avx512::kTiles<float>, &avx512::kTiles<double>, nullptr,
                                  &avx512::kSampling};
  return set;
}

const InstructionSet& avx512_bf16_set() {
  static const InstructionSet set{"avx512_bf16", &avx512::kTiles<float>, &avx512::kTiles<double>, kBf16Pairs,
                                  &avx512::kSampling};
  return set;
}

const InstructionSet& amx_set() {
  static const InstructionSet set{"amx", &avx512::kTiles<float>, &avx512::kTiles<double>, kAmxPairs,
                                  &avx512::kSampling};
  return set;
}

}  // namespace mmpt
#endif
