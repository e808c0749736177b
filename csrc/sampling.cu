// Sampling from an allowed range on CUDA: two launches, logits of the range, then one block per row that chooses.
//
// Logits: a warp owns one id for up to 8 rows of the batch, so a range that rows share is read once for all of them;
// the lanes' order of summation is the same for any batch. One row takes a loop of its own, whose count of rows is
// known when it is compiled: four loads of weights in flight instead of one. Hidden rows lie in shared memory so that
// no two lanes wait for one bank; a block fills it once for all its ids. Choosing: greedy and plain sampling are one
// reduction by (score, lower id); top-k and top-p descend the bits of an order-preserving key, 8 at a time, with counts
// or integer masses (exp * 2^40) in a histogram, which is exact and needs no sort. Nothing is read back to the host.
#include <cmath>

#include "philox.h"
#include "sampling_device.cuh"

namespace mmpt {
namespace {

constexpr int kLogitWarps = 8;
constexpr int kBatchTile = 8;
constexpr int64_t kHiddenBytes = 64 << 10;  // of hidden rows in shared memory: three blocks an SM
constexpr int kChooseThreads = 512;
constexpr int kLogitBlocks = 3;  // of range_logits on a multiprocessor, by their shared memory
constexpr double kMassUnit = double(int64_t(1) << 40);

// ---- logits of the range ---------------------------------------------------------------------------------------

// A row of hidden in shared memory has room for so many numbers.
__host__ __device__ __forceinline__ int64_t padded(int64_t dimensions) { return (dimensions + 7) / 8 * 8; }

// Where element k of a hidden row lies in shared memory. Fours stay together and are read at once, by a quarter of a
// warp at a time, whose fours are neighbours (fp32 weights) or every second one (16-bit weights). Neighbouring fours
// swapped in every second eight of them, both meet 8 different groups of banks; unswapped, 16-bit weights wait twice
// for each.
__device__ __forceinline__ int place_of(int k) { return k ^ ((k >> 5 & 1) << 2); }

// Copies a row of hidden to shared memory, 16 bytes at a time where it lies so.
template <typename T>
__device__ void fill_row(const T* hidden, int dimensions, float* out) {
  constexpr int kPack = 16 / sizeof(T);
  const int packs = reinterpret_cast<uintptr_t>(hidden) % 16 == 0 ? dimensions / kPack : 0;
  for (int i = threadIdx.x; i < packs; i += blockDim.x) {
    const Pack<T> pack = reinterpret_cast<const Pack<T>*>(hidden)[i];
    for (int j = 0; j < kPack; j += 4) {
      Pack<float> four;
      for (int n = 0; n < 4; ++n) four.value[n] = float(widen(pack.value[j + n]));
      *reinterpret_cast<Pack<float>*>(out + place_of(i * kPack + j)) = four;
    }
  }
  for (int k = packs * kPack + threadIdx.x; k < dimensions; k += blockDim.x) out[place_of(k)] = float(widen(hidden[k]));
}

// Lane-strided partial sums of weight row times each hidden row (fp32, in shared memory), folded by halves.
template <typename W>
__device__ void warp_dots(const W* weight, const float* hidden, int dimensions, int rows, float* sums) {
  const int lane = threadIdx.x % 32, width = int(padded(dimensions));
  for (int b = 0; b < kBatchTile; ++b) sums[b] = 0.f;
  constexpr int kPack = 16 / sizeof(W);
  const bool aligned = reinterpret_cast<uintptr_t>(weight) % 16 == 0;
  const int packs = aligned ? dimensions / kPack : 0;
  for (int i = lane; i < packs; i += 32) {
    const Pack<W> pack = reinterpret_cast<const Pack<W>*>(weight)[i];
    for (int b = 0; b < rows; ++b)
      for (int j = 0; j < kPack; j += 4) {
        const Pack<float> four = *reinterpret_cast<const Pack<float>*>(hidden + b * width + place_of(i * kPack + j));
        for (int n = 0; n < 4; ++n) sums[b] += float(widen(pack.value[j + n])) * four.value[n];
      }
  }
  for (int k = packs * kPack + lane; k < dimensions; k += 32)
    for (int b = 0; b < rows; ++b) sums[b] += float(widen(weight[k])) * hidden[b * width + place_of(k)];
  for (int b = 0; b < rows; ++b)
    for (int distance = 16; distance; distance /= 2) sums[b] += shuffle(sums[b], distance);
}

__device__ void id_dots(const DeviceHead& head, int64_t id, const float* hidden, int rows, float* sums) {
  const bool in_base = id < head.base_rows;
  const Element element = in_base ? head.base_element : head.fresh_element;
  const int64_t at = in_base ? id * head.base_stride : (id - head.base_rows) * head.fresh_stride;
  const void* matrix = in_base ? head.base : head.fresh;
  if (element == Element::kBFloat16)
    warp_dots(static_cast<const __nv_bfloat16*>(matrix) + at, hidden, int(head.dimensions), rows, sums);
  else if (element == Element::kHalf)
    warp_dots(static_cast<const __half*>(matrix) + at, hidden, int(head.dimensions), rows, sums);
  else warp_dots(static_cast<const float*>(matrix) + at, hidden, int(head.dimensions), rows, sums);
}

// grid (tiles of `tile` rows, tiles of ids): blocks that read the same weights follow one another. Dynamic shared
// memory: [tile][padded dimensions] fp32 hidden rows.
template <typename T>
__global__ void __launch_bounds__(kLogitWarps * 32)
    range_logits(const T* hidden, int64_t hidden_stride, DeviceHead head, DeviceSampling how, int64_t from,
                 float* values, int64_t stride, int tile) {
  extern __shared__ __align__(16) unsigned char storage[];
  float* rows_of_hidden = reinterpret_cast<float*>(storage);
  __shared__ Range ranges[kBatchTile];
  const int64_t first = int64_t(blockIdx.x) * tile;
  const int rows = int(how.batch - first < tile ? how.batch - first : tile);
  const int dimensions = int(head.dimensions), width = int(padded(dimensions)), warp = threadIdx.x / 32;
  if (threadIdx.x < rows) ranges[threadIdx.x] = range_of(how, first + threadIdx.x);
  for (int b = 0; b < rows; ++b) fill_row(hidden + (first + b) * hidden_stride, dimensions, rows_of_hidden + b * width);
  __syncthreads();
  bool shared = rows > 1;
  for (int b = 0; b < rows; ++b)
    shared = shared && ranges[b].valid && ranges[b].lo == ranges[0].lo && ranges[b].hi == ranges[0].hi;

  float sums[kBatchTile];
  const auto put = [&](int b, int64_t column, float sum) {
    if (head.softcap > 0.f) sum = tanhf(sum / head.softcap) * head.softcap;
    if (threadIdx.x % 32 == 0) values[(first + b) * stride + column] = sum;
  };
  for (int64_t r = int64_t(blockIdx.y) * kLogitWarps + warp; r < how.max_range; r += int64_t(gridDim.y) * kLogitWarps) {
    if (shared) {
      if (r >= ranges[0].hi - ranges[0].lo) break;
      if (ranges[0].lo + r < from) continue;
      id_dots(head, ranges[0].lo + r, rows_of_hidden, rows, sums);
      for (int b = 0; b < rows; ++b) put(b, r + (ranges[b].side < 0), sums[b]);
    } else {
      for (int b = 0; b < rows; ++b) {
        if (!ranges[b].valid || r >= ranges[b].hi - ranges[b].lo || ranges[b].lo + r < from) continue;
        id_dots(head, ranges[b].lo + r, rows_of_hidden + b * width, 1, sums);
        put(b, r + (ranges[b].side < 0), sums[0]);
      }
    }
  }
  if (blockIdx.y == 0)
    for (int b = warp; b < rows; b += kLogitWarps)
      if (ranges[b].valid && ranges[b].side && ranges[b].extra >= from) {
        id_dots(head, ranges[b].extra, rows_of_hidden + b * width, 1, sums);
        put(b, ranges[b].side < 0 ? 0 : ranges[b].hi - ranges[b].lo, sums[0]);
      }
}

template <typename T>
__global__ void copy_logits(const T* logits, int64_t row_stride, int64_t step, DeviceSampling how, float* values,
                            int64_t stride) {
  const int64_t row = blockIdx.x;  // a grid's first dimension alone takes more than 65,535
  const Range range = range_of(how, row);
  if (!range.valid) return;
  for (int64_t c = int64_t(blockIdx.y) * blockDim.x + threadIdx.x; c < range.count();
       c += int64_t(gridDim.y) * blockDim.x)
    values[row * stride + c] = float(widen(logits[row * row_stride + range.id(c) * step]));
}

// ---- choosing --------------------------------------------------------------------------------------------------

constexpr int kNoColumn = 0x7fffffff;

// A column and its score, S is float or double; the better of two has the larger score, or the lower column.
template <typename S>
struct Candidate {
  S score;
  int column;
  int nan;  // 1 where any score that was looked at is NaN
  template <typename G>
  __device__ Candidate each(G of) const {
    return {of(score), of(column), of(nan)};
  }
};
struct Better {
  template <typename S>
  __device__ Candidate<S> operator()(const Candidate<S>& a, const Candidate<S>& b) const {
    const bool first = a.score != b.score ? a.score > b.score : a.column < b.column;
    return {first ? a.score : b.score, first ? a.column : b.column, a.nan | b.nan};
  }
};

__device__ __forceinline__ double gumbel(uint32_t word) {
  const double u = (double(word) + 0.5) * (1.0 / 4294967296.0);
  return -log(-log1p(-u));
}

// Unsigned order of the keys is the order of the values; -0 and 0 share one key.
__device__ __forceinline__ uint32_t key_of(float value) {
  const uint32_t bits = __float_as_uint(value == 0.f ? 0.f : value);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// Which columns are kept: keys above `key`, and of those equal to it the columns up to `last`.
struct Cut {
  uint32_t key;
  int64_t last;
  __device__ bool keeps(uint32_t k, int64_t column) const { return k > key || (k == key && column <= last); }
};

struct Row {
  const float* value;
  int64_t count;
  double temperature;
  float top;
  __device__ double scaled(int64_t column) const { return double(value[column]) / temperature; }
  __device__ unsigned long long mass(int64_t column) const {
    return (unsigned long long)(exp(scaled(column) - double(top) / temperature) * kMassUnit + 0.5);
  }
};

constexpr uint32_t kNoDigit = 256;
constexpr int kTogether = 8;  // lanes with one digit, from which on they add up first: at most four such groups a warp

// Shared memory of a descent.
struct Histogram {
  uint32_t low[256], high[256];
  unsigned long long before, unit;
  uint32_t digit;
  int64_t last;
  int warp_count[32];

  // Adds each lane's value to the bin of its digit; kNoDigit is of a lane that has none. The first passes put most
  // columns into two to four bins, where additions wait for one another: lanes that share a bin in such numbers add up
  // first. Called by whole warps. What it comes to does not depend on the order.
  __device__ void add(uint32_t digit, unsigned long long value) {
    const unsigned same = __match_any_sync(kAllLanes, digit);
    const bool together = digit != kNoDigit && __popc(same) >= kTogether;
    const int lane = threadIdx.x % 32, first = __ffs(same) - 1;
    for (unsigned leaders = __ballot_sync(kAllLanes, together && lane == first); leaders; leaders &= leaders - 1) {
      const int leader = __ffs(leaders) - 1;
      const unsigned long long sum = warp_sum(of_lane(digit, leader) == digit ? value : 0);
      if (lane == leader) put(digit, sum);
    }
    if (digit != kNoDigit && !together) put(digit, value);
  }
  // A 32-bit addition is one instruction in shared memory; one of 64 bits would be a loop of compare-and-swap.
  __device__ void put(uint32_t digit, unsigned long long value) {
    const uint32_t part = uint32_t(value), sum = atomicAdd(&low[digit], part) + part;
    const uint32_t above = uint32_t(value >> 32) + (sum < part ? 1u : 0u);
    if (above) atomicAdd(&high[digit], above);
  }
  __device__ unsigned long long bin(int digit) const { return (unsigned long long)(high[digit]) << 32 | low[digit]; }
};

struct Mass {
  unsigned long long value;
  template <typename G>
  __device__ Mass each(G of) const {
    return {of(value)};
  }
};
struct AddMasses {
  __device__ Mass operator()(Mass a, Mass b) const { return {a.value + b.value}; }
};

// The column of the `wanted`-th (from 1) of those with this key that `within` keeps, in ascending order.
__device__ int64_t column_of(const Row& row, const Cut& within, uint32_t key, unsigned long long wanted, Histogram& h) {
  unsigned long long seen = 0;
  if (threadIdx.x == 0) h.last = row.count - 1;
  for (int64_t start = 0; start < row.count; start += blockDim.x) {
    const int64_t c = start + threadIdx.x;
    const bool equal = c < row.count && key_of(row.value[c]) == key && within.keeps(key, c);
    const Standing standing = standing_of(equal, h.warp_count);
    const unsigned long long before = seen + standing.before;
    if (equal && before + 1 == wanted) h.last = c;
    seen += standing.total;
  }
  __syncthreads();
  return h.last;
}

// The highest digit down to which the histogram, after what lies above it, weighs `wanted`, and the weight before it;
// where rounding leaves the whole below that, the lowest digit that weighs anything. By one warp, 8 digits for each
// lane.
__device__ void find_digit(double wanted, Histogram& h) {
  constexpr int kDigits = 8;
  const int lane = threadIdx.x, highest = 255 - lane * kDigits;
  unsigned long long bins[kDigits], own = 0;
  for (int j = 0; j < kDigits; ++j) own += bins[j] = h.bin(highest - j);
  unsigned long long upto = own;
  for (int distance = 1; distance < 32; distance *= 2) {
    const unsigned long long other = of_lane(upto, max(lane - distance, 0));
    if (lane >= distance) upto += other;
  }
  const unsigned long long start = h.before + upto - own, all = h.before + of_lane(upto, 31);
  unsigned long long before = start, at = start;
  int crossing = -1, lowest = -1;
  for (int j = 0; j < kDigits; ++j) {
    if (!bins[j]) continue;
    lowest = j;
    if (crossing < 0 && double(at + bins[j]) >= wanted) crossing = j, before = at;
    at += bins[j];
  }
  const unsigned crossed = __ballot_sync(kAllLanes, crossing >= 0), weighs = __ballot_sync(kAllLanes, lowest >= 0);
  const int chosen = crossed ? __ffs(crossed) - 1 : weighs ? 31 - __clz(weighs) : 0;
  if (lane != chosen) return;
  if (!crossed) crossing = max(lowest, 0), before = all - (lowest < 0 ? 0 : bins[lowest]);
  h.before = before, h.digit = uint32_t(highest - crossing);
}

// The shortest prefix, in order of (value, lower column first), of the columns that `within` keeps, whose weights reach
// `wanted`: by_mass ? the columns' masses : one each.
__device__ Cut descend(const Row& row, const Cut& within, bool by_mass, double wanted, Histogram& h) {
  uint32_t prefix = 0, mask = 0;
  if (threadIdx.x == 0) h.before = 0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    __syncthreads();
    for (int i = threadIdx.x; i < 256; i += blockDim.x) h.low[i] = h.high[i] = 0;
    __syncthreads();
    for (int64_t start = 0; start < row.count; start += blockDim.x) {
      const int64_t c = start + threadIdx.x;
      const uint32_t key = c < row.count ? key_of(row.value[c]) : 0;
      const bool counts = c < row.count && (key & mask) == prefix && within.keeps(key, c);
      h.add(counts ? (key >> shift) & 255u : kNoDigit, !counts ? 0ull : by_mass ? row.mass(c) : 1ull);
    }
    __syncthreads();
    if (threadIdx.x < 32) find_digit(wanted, h);
    __syncthreads();
    prefix |= h.digit << shift;
    mask |= 255u << shift;
  }
  // All with this key weigh the same: as many of them as it takes.
  const unsigned long long before = h.before;
  unsigned long long unit = 1;
  if (by_mass) {
    __syncthreads();
    for (int64_t c = threadIdx.x; c < row.count; c += blockDim.x)
      if (key_of(row.value[c]) == prefix && within.keeps(prefix, c)) h.unit = row.mass(c);  // the same from all
    __syncthreads();
    unit = h.unit;
  }
  unsigned long long needed = 1;
  if (double(before) < wanted && unit) {
    needed = (unsigned long long)ceil((wanted - double(before)) / double(unit));
    while (needed > 1 && double(before + (needed - 1) * unit) >= wanted) --needed;
    while (double(before + needed * unit) < wanted) ++needed;
  }
  return {prefix, column_of(row, within, prefix, needed, h)};
}

__device__ unsigned long long total_mass(const Row& row, const Cut& within, Mass* scratch) {
  Mass own{0};
  for (int64_t c = threadIdx.x; c < row.count; c += blockDim.x)
    if (within.keeps(key_of(row.value[c]), c)) own.value += row.mass(c);
  return block_reduce(own, scratch, AddMasses()).value;
}

// One block for each row.
__global__ void __launch_bounds__(kChooseThreads)
    choose(const float* values, int64_t stride, DeviceSampling how, int64_t* ids) {
  __shared__ Candidate<float> largest[32];
  __shared__ Candidate<double> scratch[32];
  __shared__ Mass masses[32];
  __shared__ Histogram histogram;
  const int64_t b = blockIdx.x;
  const Range range = range_of(how, b);
  Row row{values + b * stride, 0, parameter(how.temperature, b), 0.f};
  const int64_t top_k = parameter(how.top_k, b);
  const double top_p = parameter(how.top_p, b);
  // Comparisons with NaN are false. What has no meaning is -1: an id that is not one must not reach an embedding.
  const bool meant = row.temperature >= 0 && row.temperature < INFINITY && top_k >= 0 && top_p > 0 && top_p <= 1;
  if (!range.valid || !meant) {
    if (threadIdx.x == 0) ids[b] = -1;
    return;
  }
  row.count = range.count();
  Candidate<float> greedy{-INFINITY, kNoColumn, 0};
  for (int c = threadIdx.x; c < row.count; c += blockDim.x) {
    const float value = row.value[c];
    if (value != value) greedy.nan = 1;
    else greedy = Better()(greedy, Candidate<float>{value, c, 0});
  }
  greedy = block_reduce(greedy, largest, Better());
  if (greedy.nan || greedy.score == -INFINITY || row.temperature == 0) {
    // Nothing but -inf is the lowest id, as for temperature 0.
    if (threadIdx.x == 0) ids[b] = greedy.nan ? -1 : range.id(greedy.score == -INFINITY ? 0 : greedy.column);
    return;
  }
  row.top = greedy.score;
  Cut cut{key_of(-INFINITY), -1};  // everything above -inf
  const bool infinite = isinf(row.scaled(greedy.column));
  if ((top_k > 0 && top_k < row.count) || (infinite && top_p < 1))
    cut = descend(row, cut, false, infinite && top_p < 1 ? 1.0 : double(top_k), histogram);
  if (top_p < 1 && !infinite) cut = descend(row, cut, true, top_p * double(total_mass(row, cut, masses)), histogram);

  const uint64_t seed = uint64_t(parameter(how.seed, b)), offset = uint64_t(parameter(how.offset, b));
  Candidate<double> best{-INFINITY, kNoColumn, 0};
  for (int c = threadIdx.x; c < row.count; c += blockDim.x) {
    if (!cut.keeps(key_of(row.value[c]), c)) continue;
    const uint32_t word = philox_word(seed, offset, uint64_t(range.id(c)));
    const double scaled = row.scaled(c);
    // -log(u) bounds the noise from above: two fp64 logarithms only for what may still win.
    const float bound = -__logf((float(word) + 0.5f) * 2.3283064365386963e-10f) + 1e-2f;
    if (scaled + double(bound) + 1e-6 * fabs(scaled) < best.score) continue;
    best = Better()(best, Candidate<double>{scaled + gumbel(word), c, 0});
  }
  best = block_reduce(best, scratch, Better());
  if (threadIdx.x == 0) ids[b] = best.column < row.count ? range.id(best.column) : -1;
}

template <typename T>
void launch_range_logits_of(const T* hidden, int64_t hidden_stride, const DeviceHead& head, const DeviceSampling& how,
                            int64_t from, float* values, int64_t stride, cudaStream_t stream) {
  const int64_t row_bytes = padded(head.dimensions) * int64_t(sizeof(float));
  int64_t tile = kHiddenBytes / (row_bytes ? row_bytes : 1);
  tile = tile < 1 ? 1 : tile < kBatchTile ? tile : kBatchTile;
  tile = tile < how.batch ? tile : how.batch;
  const int64_t shared = tile * row_bytes;
  cudaFuncSetAttribute(range_logits<T>, cudaFuncAttributeMaxDynamicSharedMemorySize, dynamic_shared_limit());
  // One wave of blocks: each fills its hidden rows once and goes through as many tiles of ids as are left to it.
  const int64_t across = (how.batch + tile - 1) / tile, wave = int64_t(kLogitBlocks) * multiprocessors();
  const int64_t tiles = (how.max_range + kLogitWarps - 1) / kLogitWarps;  // 0 where no row may have an id
  const dim3 grid(unsigned(across), unsigned(max(min(tiles, (wave + across - 1) / across), int64_t(1))));
  range_logits<T><<<grid, kLogitWarps * 32, size_t(shared), stream>>>(hidden, hidden_stride, head, how, from, values,
                                                                      stride, int(tile));
}

template <typename T>
void launch_copy_logits_of(const T* logits, int64_t row_stride, int64_t step, const DeviceSampling& how, float* values,
                           int64_t stride, cudaStream_t stream) {
  const int64_t tiles = (how.max_range + 1 + 255) / 256;
  const dim3 grid(unsigned(how.batch), unsigned(tiles < 64 ? tiles : 64));
  copy_logits<T><<<grid, 256, 0, stream>>>(logits, row_stride, step, how, values, stride);
}

}  // namespace

// Sampling takes no double (check_no_double): what is not 16 bits wide is float.
#define MMPT_BY_SAMPLED(element, ...)                \
  switch (element) {                                 \
    MMPT_CASE(kBFloat16, __nv_bfloat16, __VA_ARGS__) \
    MMPT_CASE(kHalf, __half, __VA_ARGS__)            \
    default: {                                       \
      using T = float;                               \
      __VA_ARGS__;                                   \
      break;                                         \
    }                                                \
  }

void launch_range_logits(const void* hidden, Element element, int64_t hidden_stride, const DeviceHead& head,
                         const DeviceSampling& how, int64_t from, float* values, int64_t stride, cudaStream_t stream) {
  MMPT_BY_SAMPLED(element, launch_range_logits_of(static_cast<const T*>(hidden), hidden_stride, head, how, from, values,
                                                  stride, stream));
}

void launch_copy_logits(const void* logits, Element element, int64_t row_stride, int64_t step,
                        const DeviceSampling& how, float* values, int64_t stride, cudaStream_t stream) {
  MMPT_BY_SAMPLED(element,
                  launch_copy_logits_of(static_cast<const T*>(logits), row_stride, step, how, values, stride, stream));
}

void launch_choose(const float* values, int64_t stride, const DeviceSampling& how, int64_t* ids, cudaStream_t stream) {
  choose<<<unsigned(how.batch), kChooseThreads, 0, stream>>>(values, stride, how, ids);
}

}  // namespace mmpt
