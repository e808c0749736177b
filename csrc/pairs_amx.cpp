// bf16 products with AMX.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,bmi,bmi2,amx-tile,amx-bf16")
#define MMPT_SET amx_pairs
#define MMPT_AMX 1
#include "pairs_impl.h"

namespace mmpt {
extern const PairKernels* const kAmxPairs;
const PairKernels* const kAmxPairs = &amx_pairs::kPairs;
}  // namespace mmpt
#endif
