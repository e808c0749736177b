// What both .cu files share on the device: loads by element type, reductions of a block, clusters of blocks.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace mmpt {

constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kStaticShared = 4096;  // bytes: more than the static shared memory of any kernel here

// Dynamic shared memory that a block may have on the current device. A kernel's limit is always raised to this, never
// to what one launch needs: that could lower the limit under a launch of another thread or stream.
inline int dynamic_shared_limit() {
  int device = 0, bytes = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  return bytes - kStaticShared;
}

// Multiprocessors of the current device.
inline int multiprocessors() {
  int device = 0, count = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device);
  return count;
}

__device__ __forceinline__ double widen(double value) { return value; }
__device__ __forceinline__ float widen(float value) { return value; }
__device__ __forceinline__ float widen(__nv_bfloat16 value) { return __bfloat162float(value); }
__device__ __forceinline__ float widen(__half value) { return __half2float(value); }

template <typename T, typename F>
__device__ __forceinline__ T from(F value) {
  return T(value);
}
template <>
__device__ __forceinline__ __nv_bfloat16 from(float value) {
  return __float2bfloat16(value);
}
template <>
__device__ __forceinline__ __half from(float value) {
  return __float2half(value);
}

template <typename T>
struct IsHalf {
  static constexpr bool value = false;
};
template <>
struct IsHalf<__half> {
  static constexpr bool value = true;
};

// The arithmetic of an element type: fp64 for fp64, else fp32.
template <typename T>
struct Wide {
  using type = float;
};
template <>
struct Wide<double> {
  using type = double;
};

// A case of a switch over Element that runs the statement with T as `type`.
#define MMPT_CASE(element, type, ...) \
  case Element::element: {            \
    using T = type;                   \
    __VA_ARGS__;                      \
    break;                            \
  }

// Runs the statement with T as the type of an Element.
#define MMPT_BY_ELEMENT(element, ...)                \
  switch (element) {                                 \
    MMPT_CASE(kFloat, float, __VA_ARGS__)            \
    MMPT_CASE(kBFloat16, __nv_bfloat16, __VA_ARGS__) \
    MMPT_CASE(kHalf, __half, __VA_ARGS__)            \
    MMPT_CASE(kDouble, double, __VA_ARGS__)          \
  }

// 16 bytes of elements, moved at once.
template <typename T>
struct alignas(16) Pack {
  T value[16 / sizeof(T)];
};

// A number of the type system: what a generic lambda gets where a constant is needed.
template <int kValue>
struct Constant {
  static constexpr int value = kValue;
};

// 2^x by the special function unit: off by 2 units in the last place of fp32, 0 below 2^-126.
__device__ __forceinline__ float fast_exp2(float x) {
#ifdef __CUDA_ARCH__
  float out;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(x));
  return out;
#else
  return exp2f(x);
#endif
}

template <typename T>
__device__ __forceinline__ T shuffle(T value, int distance) {
  return __shfl_xor_sync(kAllLanes, value, distance);
}
template <typename T>
__device__ __forceinline__ T of_lane(T value, int lane) {
  return __shfl_sync(kAllLanes, value, lane);
}

// Combines one value of each thread by `merge`, in a fixed order; every thread gets the same bits. scratch: 32 values.
// V::each(f) applies f to each field. The block has 1, 2, 4, .. or 32 warps.
template <typename V, typename F>
__device__ V block_reduce(V value, V* scratch, F merge) {
  const int lane = threadIdx.x % 32, warps = blockDim.x / 32;
  for (int distance = 16; distance; distance /= 2)
    value = merge(value, value.each([&](auto field) { return shuffle(field, distance); }));
  __syncthreads();  // scratch may still be read from the last reduction
  if (lane == 0) scratch[threadIdx.x / 32] = value;
  __syncthreads();
  value = scratch[lane & (warps - 1)];
  for (int distance = warps / 2; distance; distance /= 2)
    value = merge(value, value.each([&](auto field) { return shuffle(field, distance); }));
  // Two lanes may round a merge of the same two values differently, where a product and a sum become one instruction.
  return value.each([&](auto field) { return of_lane(field, 0); });
}

struct Sum {
  double value;
  template <typename G>
  __device__ Sum each(G of) const {
    return {of(value)};
  }
};
struct AddSums {
  __device__ Sum operator()(Sum a, Sum b) const { return {a.value + b.value}; }
};

// The sum of the lanes' numbers, each below 2^54, in every lane.
__device__ __forceinline__ unsigned long long warp_sum(unsigned long long value) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  // One instruction adds 32 bits of all lanes: 27 bits at a time do not overflow.
  unsigned long long sum = 0;
  for (int shift = 0; shift < 54; shift += 27)
    sum += (unsigned long long)(__reduce_add_sync(kAllLanes, uint32_t(value >> shift) & 0x7ffffffu)) << shift;
  return sum;
#else
  for (int distance = 16; distance; distance /= 2) value += shuffle(value, distance);
  return value;
#endif
}

// Of the block's threads that say yes: how many come before this one, and how many there are.
struct Standing {
  int before, total;
};

// counts: 32 numbers of shared memory. The block has at most 32 warps, all of which call. Warps are added up by 5
// shuffles.
__device__ __forceinline__ Standing standing_of(bool yes, int* counts) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  const unsigned ballot = __ballot_sync(kAllLanes, yes);
  __syncthreads();  // counts may still be read from the last call
  if (lane == 0) counts[warp] = __popc(ballot);
  __syncthreads();
  int upto = lane < warps ? counts[lane] : 0;
  for (int distance = 1; distance < 32; distance *= 2) {
    const int other = of_lane(upto, max(lane - distance, 0));
    if (lane >= distance) upto += other;
  }
  const int below = of_lane(upto, max(warp - 1, 0)), total = of_lane(upto, 31);
  return {(warp ? below : 0) + __popc(ballot & ((1u << lane) - 1u)), total};
}

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

// sum += a b by one warp: a [16][16] and b [16][8] of a 16-bit type, sum [16][8], as the lanes hold them for
// mma.sync.m16n8k16.
template <typename T>
__device__ __forceinline__ void multiply_tile(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
#define MMPT_MULTIPLY(type)                                        \
  asm("mma.sync.aligned.m16n8k16.row.col.f32." type "." type       \
      ".f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};" \
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])     \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))
  if constexpr (IsHalf<T>::value) MMPT_MULTIPLY("f16");
  else MMPT_MULTIPLY("bf16");
#undef MMPT_MULTIPLY
#endif
}

}  // namespace mmpt
