// The loops of tiles.h for AVX2 and FMA.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC target("avx2,fma,bmi,bmi2")
#define MMPT_SET avx2
#define MMPT_VECTOR_BYTES 32
#include "tiles_impl.h"
#include "screen_impl.h"

const mmpt::InstructionSet& mmpt::avx2_set() {
  static constexpr InstructionSet set{"avx2",  &avx2::kTiles<float>, &avx2::kTiles<double>,
                                      nullptr, &avx2::kSampling,     &avx2::kScreen};
  return set;
}
#endif
