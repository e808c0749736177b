// bf16 and half of torch under CUDA's names.
#pragma once
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>
using __nv_bfloat16 = c10::BFloat16;
using __half = c10::Half;
inline float __bfloat162float(__nv_bfloat16 value) { return float(value); }
inline __nv_bfloat16 __float2bfloat16(float value) { return value; }
inline float __half2float(__half value) { return float(value); }
inline __half __float2half(float value) { return value; }
