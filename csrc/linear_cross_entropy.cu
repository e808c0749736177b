// Masked cross-entropy on CUDA: compaction, the row kernel, and the fixed-order sums.
//
// The row kernel reads a row of logits once: on sm_90 and newer a cluster of up to 8 blocks holds the row in shared
// memory (V = 164,021 bf16 is 328 KB, 4 blocks), exchanges maximum and sum through distributed shared memory, and
// writes the gradient over the logits. Where the row does not fit (older cards), it is read twice, the second time
// mostly from L2. Arithmetic is fp32 (fp64 for fp64); only what is stored is the element type.
#include "linear_cross_entropy.cuh"

#include <cmath>
#include <cstring>

#include "cuda_device.cuh"

namespace mmpt {
namespace {

constexpr int kCompactThreads = 1024;
constexpr int kRowThreads = 512;
constexpr int kMaxCluster = 8;

// ---- compaction ------------------------------------------------------------------------------------------------

// One block walks the labels in order, so compact rows keep the order of the batch and the sums are reproducible.
__global__ void __launch_bounds__(kCompactThreads) compaction(CompactInput in, CompactRows out) {
  __shared__ int warp_count[32];
  __shared__ Sum scratch[32];
  __shared__ int base, error;
  const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
  if (thread == 0) base = 0, error = 0;
  for (int64_t i = thread; i < out.capacity; i += kCompactThreads) out.row[i] = -1;
  double weights = 0;
  __syncthreads();
  for (int64_t start = 0; start < in.count; start += kCompactThreads) {
    const int64_t row = start + thread;
    const bool inside = row < in.count;
    const int64_t label = inside ? in.labels[row] : in.ignore_index;
    const bool valid = inside && label != in.ignore_index;
    const unsigned ballot = __ballot_sync(kAllLanes, valid);
    if (lane == 0) warp_count[warp] = __popc(ballot);
    __syncthreads();
    int before = base + __popc(ballot & ((1u << lane) - 1u));
    int total = 0;
    for (int w = 0; w < kCompactThreads / 32; ++w) {
      if (w < warp) before += warp_count[w];
      total += warp_count[w];
    }
    if (valid) {
      const int64_t lo = in.row_lo ? in.row_lo[row] : in.lo, hi = in.row_hi ? in.row_hi[row] : in.hi;
      const bool good = 0 <= lo && lo < hi && hi <= in.vocabulary && lo <= label && label < hi;
      if (!good) error = 1;  // any thread may win: the word is the same
      const double weight = (in.token_weight ? in.token_weight[row] : 1.0) * (in.upstream ? in.upstream[row] : 1.0);
      weights += weight;
      if (before < out.capacity && good) {
        out.row[before] = int32_t(row);
        out.target[before] = label;
        out.lo[before] = lo;
        out.hi[before] = hi;
        out.weight[before] = weight;
      }
    }
    __syncthreads();
    if (thread == 0) base += total;
    __syncthreads();
  }
  const Sum sum = block_reduce(Sum{weights}, scratch, AddSums());
  if (thread == 0) {
    const double denominator = in.num_items < 0 ? sum.value : in.num_items;
    out.info->count = base < out.capacity ? base : int32_t(out.capacity);
    out.info->error = base > out.capacity ? 2 : error;
    out.info->scale = in.mean && base > 0 ? 1.0 / denominator : 1.0;
  }
}

template <typename T>
__global__ void gather(const T* hidden, int64_t stride, int64_t dimensions, CompactRows rows, int64_t first, T* out) {
  const int32_t row = rows.row[first + blockIdx.x];
  for (int64_t k = threadIdx.x; k < dimensions; k += blockDim.x)
    out[blockIdx.x * dimensions + k] = row < 0 ? from<T>(0.f) : hidden[int64_t(row) * stride + k];
}

template <typename T, typename F>
__global__ void scatter_hidden(const F* d_rows, int64_t dimensions, CompactRows rows, int64_t first, T* d_hidden) {
  const int32_t row = rows.row[first + blockIdx.x];
  if (row < 0) return;
  for (int64_t k = threadIdx.x; k < dimensions; k += blockDim.x)
    d_hidden[int64_t(row) * dimensions + k] = from<T>(d_rows[blockIdx.x * dimensions + k]);
}

// ---- the row kernel --------------------------------------------------------------------------------------------

// Running softmax of some columns of one row. best is the lowest id with the largest logit.
template <typename F>
struct Running {
  F max, sum, logits, target;
  int64_t best;
  __device__ Running shuffled(int distance) const {
    return {shuffle(max, distance), shuffle(sum, distance), shuffle(logits, distance), shuffle(target, distance),
            shuffle(best, distance)};
  }
};

template <typename F>
struct MergeRunning {
  __device__ Running<F> operator()(const Running<F>& a, const Running<F>& b) const {
    Running<F> out;
    out.max = a.max > b.max ? a.max : b.max;
    // exp(-inf - -inf) would be NaN where neither side has a column yet.
    const F left = a.sum == F(0) ? F(0) : a.sum * exp(a.max - out.max);
    const F right = b.sum == F(0) ? F(0) : b.sum * exp(b.max - out.max);
    out.sum = left + right;
    out.logits = a.logits + b.logits;
    out.target = a.target + b.target;
    if (a.max > b.max) out.best = a.best;
    else if (b.max > a.max) out.best = b.best;
    else out.best = a.best < b.best ? a.best : b.best;
    return out;
  }
};

// What a pack of columns means: column j is id first + j for from <= j < to, and belongs to nothing outside that. A
// pack never straddles the two segments, since they are padded apart.
struct PackIds {
  int first, from, to;
};

template <int kPack>
__device__ __forceinline__ PackIds ids_of(const Columns& columns, int column, int lo, int hi) {
  const bool in_base = column < int(columns.base_padded);
  const int segment = in_base ? int(columns.base_first) : int(columns.new_first);
  const int end = segment + (in_base ? int(columns.base_count) : int(columns.new_count));
  const int first = segment + column - (in_base ? 0 : int(columns.base_padded));
  return {first, max(lo - first, 0), min(min(hi, end) - first, kPack)};
}

// The fast exponential where the result is stored in 8 or 11 bits anyway.
template <typename T>
__device__ __forceinline__ typename Wide<T>::type exponential(typename Wide<T>::type x) {
  if constexpr (sizeof(T) == 2) return __expf(x);
  else return exp(x);
}

template <typename F>
struct RowMath {
  F softcap, lse, slope, shift, own;  // dz = (exp(z - lse) * slope - shift - own at the target) * d(softcap)
  __device__ F cap(F z) const { return softcap > F(0) ? softcap * tanh(z / softcap) : z; }
  template <typename T>
  __device__ F gradient(F z, bool is_target) const {
    F d = exponential<T>(z - lse) * slope - shift - (is_target ? own : F(0));
    if (softcap > F(0)) d *= F(1) - (z / softcap) * (z / softcap);
    return d;
  }
};

constexpr int64_t kNoId = int64_t(1) << 62;

// All blocks of a cluster put their part in `mine`; each gets the merged whole, ranks in order.
template <typename F>
__device__ Running<F> cluster_merge(const Running<F>& part, Running<F>* mine) {
  if (threadIdx.x == 0) *mine = part;
  cluster_sync();
  Running<F> total{};
  for (unsigned rank = 0; rank < cluster_size(); ++rank) {
    Running<F> other;
    uint32_t words[sizeof(other) / 4];
    for (unsigned i = 0; i < sizeof(other) / 4; ++i) words[i] = cluster_load(reinterpret_cast<uint32_t*>(mine) + i, rank);
    memcpy(&other, words, sizeof(other));
    total = rank ? MergeRunning<F>()(total, other) : other;
  }
  cluster_sync();  // nobody leaves, or writes `mine` again, while others read
  return total;
}

// One cluster a row. kCached: the block's slice of the row stays in shared memory between the two walks.
template <typename T, bool kCached>
__global__ void __launch_bounds__(kRowThreads) row_kernel(T* logits, Columns columns, CompactRows rows, int64_t first,
                                                          RowOptions options, RowResults results, int64_t slice) {
  using F = typename Wide<T>::type;
  constexpr int kPack = 16 / sizeof(T);
  extern __shared__ __align__(16) unsigned char storage[];
  Pack<T>* cache = reinterpret_cast<Pack<T>*>(storage);
  __shared__ Running<F> scratch[32];
  __shared__ Running<F> mine;

  const unsigned blocks = cluster_size(), rank = cluster_rank();
  const int64_t local = blockIdx.x / blocks, at = first + local;
  const int64_t begin = int64_t(rank) * slice;
  const int64_t end = begin + slice < columns.stride ? begin + slice : columns.stride;
  const int64_t packs = end > begin ? (end - begin) / kPack : 0;
  Pack<T>* row = reinterpret_cast<Pack<T>*>(logits + local * columns.stride + begin);
  if (rows.row[at] < 0) {  // beyond the supervised rows; the whole cluster agrees
    if (options.write_gradient)
      for (int64_t i = threadIdx.x; i < packs; i += kRowThreads) row[i] = Pack<T>{};
    return;
  }
  const int lo = int(rows.lo[at]), hi = int(rows.hi[at]), target = int(rows.target[at]);
  const F weight = F(rows.weight[at] * rows.info->scale);
  const F eps = F(options.label_smoothing), width = F(hi - lo);
  RowMath<F> math{F(options.softcap), F(0), F(0), F(0), F(0)};

  if (!options.given_lse) {
    Running<F> own{-INFINITY, F(0), F(0), F(0), kNoId};
    bool nan = false;
    for (int64_t i = threadIdx.x; i < packs; i += kRowThreads) {
      const Pack<T> pack = row[i];
      if (kCached) cache[i] = pack;
      const PackIds ids = ids_of<kPack>(columns, int(begin + i * kPack), lo, hi);
      F z[kPack], top = -INFINITY;
      for (int j = 0; j < kPack; ++j) {
        const bool allowed = j >= ids.from && j < ids.to;
        z[j] = allowed ? math.cap(widen(pack.value[j])) : F(-INFINITY);
        nan |= z[j] != z[j];
        if (z[j] > top) {
          top = z[j];
          if (top > own.max) own.best = ids.first + j;
        }
        own.logits += allowed ? z[j] : F(0);
        if (allowed && ids.first + j == target) own.target = z[j];
      }
      if (top > own.max) {
        own.sum = own.sum == F(0) ? F(0) : own.sum * exponential<T>(own.max - top);
        own.max = top;
      }
      if (own.max > F(-INFINITY))
        for (int j = 0; j < kPack; ++j) own.sum += exponential<T>(z[j] - own.max);
    }
    if (nan) own.sum = NAN;
    Running<F> total = block_reduce(own, scratch, MergeRunning<F>());
    if (blocks > 1) total = cluster_merge(total, &mine);
    const F lse = total.max + log(total.sum);
    math.lse = lse;
    if (rank == 0 && threadIdx.x == 0) {
      const F nll = lse - total.target, z_loss = F(options.z_loss);
      results.lse[at] = lse;
      results.nll[at] = nll;
      results.term[at] = (F(1) - eps) * nll + (eps > F(0) ? eps * (lse - total.logits / width) : F(0)) + z_loss * lse * lse;
      results.correct[at] = total.best == target;
    }
  } else {
    math.lse = F(results.lse[at]);
  }
  if (!options.write_gradient) return;
  math.slope = weight * (F(1) + F(2) * F(options.z_loss) * math.lse);
  math.shift = weight * eps / width;
  math.own = weight * (F(1) - eps);
  for (int64_t i = threadIdx.x; i < packs; i += kRowThreads) {
    const Pack<T> pack = kCached && !options.given_lse ? cache[i] : row[i];
    const PackIds ids = ids_of<kPack>(columns, int(begin + i * kPack), lo, hi);
    Pack<T> out;
    for (int j = 0; j < kPack; ++j) {
      const F z = math.cap(widen(pack.value[j]));
      const F d = math.template gradient<T>(z, ids.first + j == target);
      out.value[j] = from<T>(j >= ids.from && j < ids.to ? d : F(0));
    }
    row[i] = out;
  }
}

// ---- sums and scattering ---------------------------------------------------------------------------------------

template <typename F>
__global__ void finish(CompactRows rows, RowResults results, FinalOutputs out) {
  __shared__ Sum scratch[32];
  const CompactionInfo info = *rows.info;
  if (blockIdx.x == 0) {  // per-row results, and the loss
    Sum loss{0};
    for (int64_t i = threadIdx.x; i < info.count; i += blockDim.x) {
      const int32_t row = rows.row[i];
      if (row < 0) continue;
      const double term = results.term[i] * rows.weight[i] * info.scale;
      static_cast<F*>(out.nll)[row] = F(results.nll[i]);
      static_cast<F*>(out.lse)[row] = F(results.lse[i]);
      out.correct[row] = results.correct[i];
      if (out.none) static_cast<F*>(out.loss)[row] = info.error ? F(NAN) : F(term);
      loss.value += term;
    }
    loss = block_reduce(loss, scratch, AddSums());
    if (threadIdx.x == 0 && !out.none) *static_cast<F*>(out.loss) = info.error ? F(NAN) : F(loss.value);
    return;
  }
  const int64_t group = blockIdx.x - 1;
  Sum loss{0}, count{0};
  for (int64_t i = threadIdx.x; i < info.count && out.group; i += blockDim.x) {
    const int32_t row = rows.row[i];
    if (row < 0 || out.group[row] != group) continue;
    loss.value += results.nll[i];
    count.value += 1;
  }
  loss = block_reduce(loss, scratch, AddSums());
  count = block_reduce(count, scratch, AddSums());
  if (threadIdx.x == 0) out.group_loss[group] = loss.value, out.group_count[group] = int64_t(count.value);
}

template <typename T>
void launch_rows_of(T* logits, const Columns& columns, const CompactRows& rows, int64_t first, int64_t count,
                    const RowOptions& options, const RowResults& results, cudaStream_t stream) {
  int device = 0, shared = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  // Whether the code that runs knows clusters, which is not what the card knows: code built for sm_80 runs on sm_90
  // from its PTX, and would take each block of a cluster for a whole one.
  cudaFuncAttributes code{};
  cudaFuncGetAttributes(&code, row_kernel<T, true>);
  const bool clusters = code.ptxVersion >= 90;
  const int64_t room = shared - int64_t(4096);  // static shared memory of the kernel, and some
  const int64_t row_bytes = columns.stride * int64_t(sizeof(T));
  int cluster = 1;
  while (clusters && cluster < kMaxCluster && row_bytes / cluster > room / 2) cluster *= 2;  // two blocks an SM
  const int64_t slice = (columns.stride / 64 + cluster - 1) / cluster * 64;
  const int64_t bytes = slice * int64_t(sizeof(T));
  const bool cached = bytes <= room && options.write_gradient && !options.given_lse;
  auto kernel = cached ? row_kernel<T, true> : row_kernel<T, false>;
  if (cached) cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes));
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(unsigned(count * cluster));
  config.blockDim = dim3(kRowThreads);
  config.dynamicSmemBytes = cached ? size_t(bytes) : 0;
  config.stream = stream;
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = unsigned(cluster);
  attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
  config.attrs = &attribute;
  config.numAttrs = cluster > 1 ? 1 : 0;
  cudaLaunchKernelEx(&config, kernel, logits, columns, rows, first, options, results, slice);
}

}  // namespace

void launch_compaction(const CompactInput& input, const CompactRows& rows, cudaStream_t stream) {
  compaction<<<1, kCompactThreads, 0, stream>>>(input, rows);
}

#define MMPT_BY_ELEMENT(element, ...)                                                                                 \
  switch (element) {                                                                                                  \
    case Element::kFloat: { using T = float; __VA_ARGS__; break; }                                                    \
    case Element::kBFloat16: { using T = __nv_bfloat16; __VA_ARGS__; break; }                                         \
    case Element::kHalf: { using T = __half; __VA_ARGS__; break; }                                                    \
    case Element::kDouble: { using T = double; __VA_ARGS__; break; }                                                  \
  }

void launch_gather(Element element, const void* hidden, int64_t stride, int64_t dimensions, const CompactRows& rows,
                   int64_t first, int64_t count, void* out, cudaStream_t stream) {
  MMPT_BY_ELEMENT(element, gather<T><<<unsigned(count), 256, 0, stream>>>(
                               static_cast<const T*>(hidden), stride, dimensions, rows, first, static_cast<T*>(out)));
}

void launch_rows(Element element, void* logits, const Columns& columns, const CompactRows& rows, int64_t first,
                 int64_t count, const RowOptions& options, const RowResults& results, cudaStream_t stream) {
  MMPT_BY_ELEMENT(element,
                  launch_rows_of(static_cast<T*>(logits), columns, rows, first, count, options, results, stream));
}

void launch_scatter_hidden(Element element, const void* d_rows, int64_t dimensions, const CompactRows& rows,
                           int64_t first, int64_t count, void* d_hidden, cudaStream_t stream) {
  MMPT_BY_ELEMENT(element, using F = typename Wide<T>::type;
                  (scatter_hidden<T, F><<<unsigned(count), 256, 0, stream>>>(static_cast<const F*>(d_rows), dimensions,
                                                                            rows, first, static_cast<T*>(d_hidden))));
}

void launch_finish(const CompactRows& rows, const RowResults& results, const FinalOutputs& out, cudaStream_t stream) {
  const unsigned blocks = unsigned(1 + out.groups);
  if (out.wide)
    finish<double><<<blocks, 512, 0, stream>>>(rows, results, out);
  else
    finish<float><<<blocks, 512, 0, stream>>>(rows, results, out);
}

}  // namespace mmpt
