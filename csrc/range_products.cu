// Logits of allowed ranges by tensor cores: a warp multiplies 16 ids by 8 rows of the batch at a time.
//
// A block of 8 warps has 16 or 64 ids and up to 64 rows of the batch. Each warp takes every eighth stretch of 32
// dimensions, and what the warps have summed is added in their order. So a logit is summed in one order, whatever the
// number of rows, the range, and the places of id and row in a tile are: a row draws the same alone as in a batch.
// Both matrices have their dimensions permuted alike, so that each lane reads 16 bytes of an id and 16 bytes of a row,
// which are its parts of two products. A block reads each number of a row once, so rows come straight from the L2
// cache.
//
// Rows whose ranges differ take turns: rows with one range are multiplied together, and a tile of 8 rows without any of
// them is left out. An extra id is a range of one id. Ids from `until` on are left to range_logits: new rows that are
// still fp32 while the base is 16 bits wide.
#include <limits>

#include "sampling_device.cuh"

namespace mmpt {
namespace {

constexpr int kWarps = 8;
constexpr int kIds = 16, kRows = 8;  // of one product
constexpr int kRowTiles = 8, kBlockRows = kRows * kRowTiles;
constexpr int kStretch = 32;            // dimensions of two products
constexpr int kPitch = kBlockRows + 1;  // numbers of an id in shared memory
constexpr int kWide = 4;                // tiles of ids of a block where there are many
constexpr int kNobody = kBlockRows;

struct alignas(16) Words {
  uint32_t word[4];
};

// What the rows of a block ask for. first[part][row]: the first row that asks for the same ids in `part`, 0 a range,
// 1 an extra id; kNobody where the row asks for none.
struct Asked {
  int64_t until;
  Range ranges[kBlockRows];
  unsigned char first[2][kBlockRows];

  __device__ int64_t lowest(int part, int row) const { return part ? ranges[row].extra : ranges[row].lo; }
  __device__ int64_t count(int part, int row) const {
    const Range& r = ranges[row];
    if (!r.valid) return 0;
    return part ? int64_t(r.side && r.extra < until) : max(min(r.hi, until) - r.lo, int64_t(0));
  }
  __device__ int64_t column(int part, int row) const {
    const Range& r = ranges[row];
    return part ? (r.side < 0 ? 0 : r.hi - r.lo) : (r.side < 0 ? 1 : 0);
  }
  __device__ void compare(int part, int row) {
    int found = kNobody;
    for (int other = row; other >= 0; --other)
      if (count(part, row) && count(part, other) == count(part, row) && lowest(part, other) == lowest(part, row))
        found = other;
    first[part][row] = (unsigned char)(found);
  }
};

template <typename T>
__device__ const T* weights_of(const DeviceHead& head, int64_t id) {
  const bool in_base = id < head.base_rows;
  const T* matrix = static_cast<const T*>(in_base ? head.base : head.fresh);
  return matrix + (in_base ? id * head.base_stride : (id - head.base_rows) * head.fresh_stride);
}

// sums[i][t]: this warp's share of ids first + 16 i .. by rows 8 t ... `last`: the highest id; what tiles hold above it
// is another one's and not written. tiles: bit t is set where tile t of the rows is wanted.
template <typename T, int kTiles>
__device__ void multiply(const DeviceHead& head, int64_t first, int64_t last, const T* hidden, int64_t stride, int rows,
                         unsigned tiles, float (&sums)[kTiles][kRowTiles][4]) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, group = lane / 4, place = lane % 4 * 8;
  const T* weights[kTiles][2];
#pragma unroll
  for (int i = 0; i < kTiles; ++i)
#pragma unroll
    for (int half = 0; half < 2; ++half)
      weights[i][half] = weights_of<T>(head, min(first + kIds * i + 8 * half + group, last)) + place;
#pragma unroll(kTiles == 1 ? 2 : 1)
  for (int k = warp * kStretch; k < int(head.dimensions); k += kWarps * kStretch) {
    Words a[kTiles][2];
#pragma unroll
    for (int i = 0; i < kTiles; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half) a[i][half] = *reinterpret_cast<const Words*>(weights[i][half] + k);
#pragma unroll
    for (int t = 0; t < kRowTiles; ++t) {
      if (!(tiles >> t & 1u)) continue;
      const int row = min(kRows * t + group, rows - 1);
      const Words b = *reinterpret_cast<const Words*>(hidden + row * stride + place + k);
#pragma unroll
      for (int i = 0; i < kTiles; ++i)
#pragma unroll
        for (int j = 0; j < 4; j += 2)
          multiply_tile<T>(sums[i][t], {a[i][0].word[j], a[i][1].word[j], a[i][0].word[j + 1], a[i][1].word[j + 1]},
                           {b.word[j], b.word[j + 1]});
    }
  }
}

// grid (tiles of 64 rows, tiles of ids). Dynamic shared memory: [kWarps][16 * kTiles ids][kPitch] fp32.
template <typename T, int kTiles>
__global__ void __launch_bounds__(kWarps * 32, 1)
    range_products(const T* hidden, int64_t hidden_stride, DeviceHead head, DeviceSampling how, int64_t until,
                   float* values, int64_t stride) {
  extern __shared__ __align__(16) unsigned char storage[];
  float* shares = reinterpret_cast<float*>(storage);
  __shared__ Asked asked;
  constexpr int kBlockIds = kIds * kTiles;
  const int64_t first_row = int64_t(blockIdx.x) * kBlockRows;
  const int rows = int(how.batch - first_row < kBlockRows ? how.batch - first_row : kBlockRows);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  if (threadIdx.x == 0) asked.until = until;
  if (threadIdx.x < rows) asked.ranges[threadIdx.x] = range_of(how, first_row + threadIdx.x);
  __syncthreads();
  if (threadIdx.x < 2 * kBlockRows && threadIdx.x % kBlockRows < rows)
    asked.compare(threadIdx.x / kBlockRows, threadIdx.x % kBlockRows);
  __syncthreads();

  for (int part = 0; part < 2; ++part)
    for (int leader = 0; leader < rows; ++leader) {
      if (asked.first[part][leader] != leader) continue;
      unsigned tiles = 0;
      for (int row = leader; row < rows; ++row) tiles |= unsigned(asked.first[part][row] == leader) << row / kRows;
      const int64_t lowest = asked.lowest(part, leader), count = asked.count(part, leader);
      for (int64_t at = int64_t(blockIdx.y) * kBlockIds; at < count; at += int64_t(gridDim.y) * kBlockIds) {
        float sums[kTiles][kRowTiles][4] = {};
        multiply<T, kTiles>(head, lowest + at, lowest + count - 1, hidden + first_row * hidden_stride, hidden_stride,
                            rows, tiles, sums);
        float* own = shares + warp * kBlockIds * kPitch + lane / 4 * kPitch + lane % 4 * 2;
#pragma unroll
        for (int i = 0; i < kTiles; ++i)
#pragma unroll
          for (int t = 0; t < kRowTiles; ++t)
            if (tiles >> t & 1u)
              for (int n = 0; n < 4; ++n) own[(kIds * i + n / 2 * 8) * kPitch + kRows * t + n % 2] = sums[i][t][n];
        __syncthreads();
        for (int e = threadIdx.x; e < kBlockIds * rows; e += kWarps * 32) {
          const int id = e % kBlockIds, row = e / kBlockIds;
          if (at + id >= count || asked.first[part][row] != leader) continue;
          float sum = 0.f;
          for (int w = 0; w < kWarps; ++w) sum += shares[(w * kBlockIds + id) * kPitch + row];
          if (head.softcap > 0.f) sum = tanhf(sum / head.softcap) * head.softcap;
          values[(first_row + row) * stride + asked.column(part, row) + at + id] = sum;
        }
        __syncthreads();
      }
    }
}

template <typename T, int kTiles>
void launch_tiles(const T* hidden, int64_t hidden_stride, const DeviceHead& head, const DeviceSampling& how,
                  int64_t until, float* values, int64_t stride, cudaStream_t stream) {
  constexpr int kBlockIds = kIds * kTiles;
  cudaFuncSetAttribute(range_products<T, kTiles>, cudaFuncAttributeMaxDynamicSharedMemorySize, dynamic_shared_limit());
  const int64_t across = (how.batch + kBlockRows - 1) / kBlockRows, tiles = (how.max_range + kBlockIds - 1) / kBlockIds;
  const dim3 grid(unsigned(across), unsigned(max(min(tiles, int64_t(65535)), int64_t(1))));
  const size_t shared = size_t(kWarps) * kBlockIds * kPitch * sizeof(float);
  range_products<T, kTiles>
      <<<grid, kWarps * 32, shared, stream>>>(hidden, hidden_stride, head, how, until, values, stride);
}

template <typename T>
void launch_products_of(const T* hidden, int64_t hidden_stride, const DeviceHead& head, const DeviceSampling& how,
                        int64_t until, float* values, int64_t stride, cudaStream_t stream) {
  // More ids of a block read the batch less often; they need blocks enough for all multiprocessors, and shared memory.
  const int64_t blocks = (how.batch + kBlockRows - 1) / kBlockRows * (how.max_range / (kIds * kWide));
  const bool wide =
      blocks >= multiprocessors() && kWarps * kIds * kWide * kPitch * int(sizeof(float)) <= dynamic_shared_limit();
  if (wide) launch_tiles<T, kWide>(hidden, hidden_stride, head, how, until, values, stride, stream);
  else launch_tiles<T, 1>(hidden, hidden_stride, head, how, until, values, stride, stream);
}

bool in_packs(const void* matrix, int64_t stride) {
  return reinterpret_cast<uintptr_t>(matrix) % 16 == 0 && stride % 8 == 0;
}

}  // namespace

int64_t products_until(const void* hidden, Element element, int64_t hidden_stride, const DeviceHead& head) {
  const bool narrow = element == Element::kBFloat16 || element == Element::kHalf;
  if (!narrow || head.base_element != element || head.dimensions % kStretch || !in_packs(hidden, hidden_stride) ||
      !in_packs(head.base, head.base_stride))
    return 0;
  cudaFuncAttributes code{};  // code for older devices than sm_80, which a newer one runs too, has no products in it
  cudaFuncGetAttributes(&code, range_products<__nv_bfloat16, 1>);
  if (code.ptxVersion < 80) return 0;
  const bool both = head.fresh && head.fresh_element == element && in_packs(head.fresh, head.fresh_stride);
  return both ? std::numeric_limits<int64_t>::max() : head.base_rows;
}

void launch_range_products(const void* hidden, Element element, int64_t hidden_stride, const DeviceHead& head,
                           const DeviceSampling& how, int64_t until, float* values, int64_t stride,
                           cudaStream_t stream) {
  if (element == Element::kBFloat16)
    launch_products_of(static_cast<const __nv_bfloat16*>(hidden), hidden_stride, head, how, until, values, stride,
                       stream);
  else launch_products_of(static_cast<const __half*>(hidden), hidden_stride, head, how, until, values, stride, stream);
}

}  // namespace mmpt
