// CUDA enough to run this project's kernels on the CPU, one cluster of blocks at a time: a block is a thread of the
// system, so that its shared memory is its own, and a thread of the block is a fiber of that.
//
// For machines without a GPU: it shows that compaction, row kernel, sampler and the code between the launches compute
// the right thing, not that they are fast or free of races. MMPT_EMULATED_SHARED is the bytes of shared memory that a
// block may ask for; the fewer, the more blocks are in a cluster. MMPT_EMULATED_CHUNK is the bytes of logits of a chunk.
// A launch that a GPU refuses is an error here too.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n)
#define __shared__ static thread_local

using std::max;
using std::min;
using std::isinf;

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

typedef void* cudaStream_t;

extern thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulated {

unsigned char* dynamic_shared();
void block_barrier();
void warp_barrier();
// A value of 8 bytes put by each lane of the warp, and read from another.
uint64_t exchange(uint64_t value, int lane);
unsigned ballot(bool vote);
unsigned match_any(uint32_t value);
uint32_t reduce_add(uint32_t value);
// Runs `body` for every thread of every block; `cluster` blocks, neighbours in x, at a time.
void launch(dim3 grid, dim3 block, size_t shared, const std::function<void()>& body, unsigned cluster = 1);
unsigned cluster_rank();
unsigned cluster_size();
void cluster_sync();
uint32_t cluster_load(const uint32_t* word, unsigned rank);

template <typename T>
T of_lane(T value, int lane) {
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = exchange(bits, lane);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

int64_t setting(const char* name, int64_t without);

// Six words of each lane of the warp, which stay until all lanes have come to the next barrier.
struct Words {
  uint32_t word[6];
};
const Words* share(const Words& own);

// As tensor cores multiply, with one rounding at the end: theirs are other ones.
template <typename T>
void multiply_tile(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  const Words* of = share({a[0], a[1], a[2], a[3], b[0], b[1]});
  const auto number = [](uint32_t word, int half) {
    const uint16_t bits = uint16_t(word >> 16 * half);
    T value;
    std::memcpy(&value, &bits, 2);
    return double(float(value));
  };
  const int lane = int(threadIdx.x % 32);
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
    double total = sum[i];
    for (int k = 0; k < 16; ++k) {
      const int quarter = k % 8 / 2, upper = k / 8;
      total += number(of[row % 8 * 4 + quarter].word[row / 8 + 2 * upper], k % 2) *
               number(of[column * 4 + quarter].word[4 + upper], k % 2);
    }
    sum[i] = setting("MMPT_EMULATED_TENSOR_CORES", 1) ? float(total) : 0.f;
  }
  warp_barrier();
}

inline int64_t setting(const char* name, int64_t without) {
  const char* asked = std::getenv(name);
  return asked ? std::atoll(asked) : without;
}
inline int64_t chunk_bytes() { return setting("MMPT_EMULATED_CHUNK", int64_t(896) << 20); }

// The first error since the last check, as cudaGetLastError keeps it.
inline thread_local std::string error;
inline void fail(const std::string& what) {
  if (error.empty()) error = what;
}
inline void check_launch() {
  const std::string what = std::exchange(error, "");
  if (!what.empty()) throw std::runtime_error("CUDA error: " + what);
}

// launch_of(kernel, grid, block, shared, stream)(arguments): what kernel<<<...>>>(arguments) is rewritten to.
template <typename F>
auto launch_of(F kernel, dim3 grid, dim3 block, size_t shared = 0, cudaStream_t = nullptr) {
  return [=](auto... arguments) { launch(grid, block, shared, [=] { kernel(arguments...); }); };
}

}  // namespace emulated

#define __syncthreads() emulated::block_barrier()
#define __shfl_xor_sync(mask, value, distance) emulated::of_lane(value, int(threadIdx.x % 32) ^ (distance))
#define __shfl_sync(mask, value, lane) emulated::of_lane(value, lane)
#define __ballot_sync(mask, vote) emulated::ballot(vote)
#define __match_any_sync(mask, value) emulated::match_any(value)
#define __reduce_add_sync(mask, value) emulated::reduce_add(value)
#define __popc __builtin_popcount
#define __ffs __builtin_ffs
#define __clz __builtin_clz

inline uint32_t __float_as_uint(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
using std::exp;
using std::fabs;
using std::fmax;
using std::ilogb;
using std::scalbn;
using std::log;
using std::log1p;
using std::tanh;
template <typename T>
T atomicAdd(T* at, T value) {
  const T before = *at;
  *at += value;
  return before;
}

enum { cudaDevAttrMaxSharedMemoryPerBlockOptin, cudaDevAttrMultiProcessorCount, cudaFuncAttributeMaxDynamicSharedMemorySize };
enum { cudaLaunchAttributeClusterDimension };
inline void cudaGetDevice(int* device) { *device = 0; }
inline void cudaDeviceGetAttribute(int* value, int attribute, int) {
  *value = attribute == cudaDevAttrMultiProcessorCount ? 2 : int(emulated::setting("MMPT_EMULATED_SHARED", 227 << 10));
}
struct cudaFuncAttributes {
  int ptxVersion;
};
template <typename F>
void cudaFuncGetAttributes(cudaFuncAttributes* code, F) { code->ptxVersion = 90; }
// A kernel's limit may not sink while the device stays the same: a launch of another thread may count on it.
template <typename F>
void cudaFuncSetAttribute(F kernel, int, int bytes) {
  static thread_local std::pair<F, std::pair<int64_t, int>> last{};
  const int64_t device = emulated::setting("MMPT_EMULATED_SHARED", 227 << 10);
  if (last.first == kernel && last.second.first == device && bytes < last.second.second)
    emulated::fail("the limit of a kernel's shared memory is lowered");
  last = {kernel, {device, bytes}};
}
struct cudaLaunchAttribute {
  int id;
  struct {
    dim3 clusterDim;
  } val;
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
  cudaLaunchAttribute* attrs;
  int numAttrs;
};
template <typename F, typename... A>
void cudaLaunchKernelEx(const cudaLaunchConfig_t* config, F kernel, A... arguments) {
  emulated::launch(config->gridDim, config->blockDim, config->dynamicSmemBytes, [=] { kernel(arguments...); },
                   config->numAttrs ? config->attrs->val.clusterDim.x : 1);
}
