// bf16 products with AVX512_BF16.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,bmi,bmi2")
#define MMPT_SET avx512_bf16_pairs
#define MMPT_AMX 0
#include "pairs_impl.h"

namespace mmpt {
extern const PairKernels* const kBf16Pairs;
const PairKernels* const kBf16Pairs = &avx512_bf16_pairs::kPairs;
}  // namespace mmpt
#endif
