// What both .cu files share on the device: loads by element type, reductions of a block, clusters of blocks.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace mmpt {

constexpr unsigned kAllLanes = 0xffffffffu;

__device__ __forceinline__ double widen(double value) { return value; }
__device__ __forceinline__ float widen(float value) { return value; }
__device__ __forceinline__ float widen(__nv_bfloat16 value) { return __bfloat162float(value); }
__device__ __forceinline__ float widen(__half value) { return __half2float(value); }

template <typename T, typename F>
__device__ __forceinline__ T from(F value) { return T(value); }
template <>
__device__ __forceinline__ __nv_bfloat16 from(float value) { return __float2bfloat16(value); }
template <>
__device__ __forceinline__ __half from(float value) { return __float2half(value); }

// The arithmetic of an element type: fp64 for fp64, else fp32.
template <typename T>
struct Wide { using type = float; };
template <>
struct Wide<double> { using type = double; };

// 16 bytes of elements, moved at once.
template <typename T>
struct alignas(16) Pack { T value[16 / sizeof(T)]; };

// Combines one value of each thread by `merge`, in a fixed order; every thread gets the result. scratch: 32 values.
template <typename V, typename F>
__device__ V block_reduce(V value, V* scratch, F merge) {
  for (int distance = 16; distance; distance /= 2) value = merge(value, value.shuffled(distance));
  const int warp = threadIdx.x / 32, warps = (blockDim.x + 31) / 32;
  __syncthreads();  // scratch may still be read from the last reduction
  if (threadIdx.x % 32 == 0) scratch[warp] = value;
  __syncthreads();
  V total = scratch[0];
  for (int i = 1; i < warps; ++i) total = merge(total, scratch[i]);
  return total;
}

__device__ __forceinline__ double shuffle(double value, int distance) { return __shfl_xor_sync(kAllLanes, value, distance); }
__device__ __forceinline__ float shuffle(float value, int distance) { return __shfl_xor_sync(kAllLanes, value, distance); }
__device__ __forceinline__ int64_t shuffle(int64_t value, int distance) {
  return __shfl_xor_sync(kAllLanes, (long long)value, distance);
}

struct Sum {
  double value;
  __device__ Sum shuffled(int distance) const { return {shuffle(value, distance)}; }
};
struct AddSums {
  __device__ Sum operator()(Sum a, Sum b) const { return {a.value + b.value}; }
};

// Thread block clusters exist from sm_90 on; elsewhere a block is its own cluster.
__device__ __forceinline__ unsigned cluster_rank() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  unsigned rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
#else
  return 0;
#endif
}
__device__ __forceinline__ unsigned cluster_size() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  unsigned size;
  asm volatile("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
  return size;
#else
  return 1;
#endif
}
__device__ __forceinline__ void cluster_sync() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
#else
  __syncthreads();
#endif
}
// The word at the same shared address in block `rank` of the cluster.
__device__ __forceinline__ uint32_t cluster_load(const uint32_t* word, unsigned rank) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  uint32_t address = uint32_t(__cvta_generic_to_shared(word)), value;
  asm volatile("mapa.shared::cluster.u32 %0, %0, %1;" : "+r"(address) : "r"(rank));
  asm volatile("ld.shared::cluster.u32 %0, [%1];" : "=r"(value) : "r"(address) : "memory");
  return value;
#else
  return *word;
#endif
}

}  // namespace mmpt
