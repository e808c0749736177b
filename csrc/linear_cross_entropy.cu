// Masked cross-entropy on CUDA: compaction, gathering and scattering of rows, and the fixed-order sums.
#include "linear_cross_entropy.cuh"

#include <cmath>

#include "cuda_device.cuh"

namespace mmpt {
namespace {

constexpr int kCompactThreads = 1024;

// ---- compaction ------------------------------------------------------------------------------------------------

struct WeightSums {
  double sum, largest;  // of the weights, and of their magnitudes
  template <typename G>
  __device__ WeightSums each(G of) const {
    return {of(sum), of(largest)};
  }
};
struct AddWeights {
  __device__ WeightSums operator()(const WeightSums& a, const WeightSums& b) const {
    return {a.sum + b.sum, a.largest > b.largest ? a.largest : b.largest};
  }
};

// The power of two by which gradients are multiplied before they are stored, so that the largest weight becomes 1/2
// to 1.
__device__ double gradient_boost(double largest) {
  return largest > 0 && !isinf(largest) ? scalbn(1.0, -ilogb(largest) - 1) : 1.0;
}

// One block walks the labels in order, so compact rows keep the order of the batch and the sums are reproducible.
__global__ void __launch_bounds__(kCompactThreads) compaction(CompactInput in, CompactRows out) {
  __shared__ int warp_count[32];
  __shared__ WeightSums scratch[32];
  __shared__ int base, error;
  const int thread = threadIdx.x;
  if (thread == 0) base = 0, error = 0;
  for (int64_t i = thread; i < out.capacity; i += kCompactThreads) out.row[i] = -1;
  WeightSums weights{0, 0};
  __syncthreads();
  for (int64_t start = 0; start < in.count; start += kCompactThreads) {
    const int64_t row = start + thread;
    const bool inside = row < in.count;
    const int64_t label = inside ? in.labels[row] : in.ignore_index;
    const bool valid = inside && label != in.ignore_index;
    const Standing standing = standing_of(valid, warp_count);
    const int before = base + standing.before;
    if (valid) {
      const int64_t lo = in.row_lo ? in.row_lo[row] : in.lo, hi = in.row_hi ? in.row_hi[row] : in.hi;
      const bool good = 0 <= lo && lo < hi && hi <= in.vocabulary && lo <= label && label < hi &&
                        (!in.group || (0 <= in.group[row] && in.group[row] < in.groups));
      if (!good) error = 1;  // any thread may win: the word is the same
      const double weight = (in.token_weight ? in.token_weight[row] : 1.0) * (in.upstream ? in.upstream[row] : 1.0);
      weights = AddWeights()(weights, {weight, fabs(weight)});
      if (before < out.capacity) {
        // A row that is wrong stays, with numbers that address memory: its weight, like all, becomes NaN.
        out.row[before] = int32_t(row);
        out.target[before] = good ? label : 0;
        out.lo[before] = good ? lo : 0;
        out.hi[before] = good ? hi : in.vocabulary;
        out.weight[before] = weight;
      }
    }
    __syncthreads();
    if (thread == 0) base += standing.total;
    __syncthreads();
  }
  weights = block_reduce(weights, scratch, AddWeights());
  if (thread == 0) {
    const double denominator = in.num_items < 0 ? weights.sum : in.num_items;
    const int kind = base > in.limit ? 2 : error;
    const double scale = in.mean && base > 0 ? 1.0 / denominator : 1.0;
    out.info->count = base < out.capacity ? base : int32_t(out.capacity);
    out.info->error = kind;
    out.info->scale = kind ? NAN : scale;  // an error makes the loss and every gradient NaN, never a wrong step
    out.info->boost = in.boosts ? gradient_boost(weights.largest * fabs(scale)) : 1.0;
    out.info->unboost = 1.0 / out.info->boost;
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
  const F unboost = F(rows.info->unboost);
  for (int64_t k = threadIdx.x; k < dimensions; k += blockDim.x)
    d_hidden[int64_t(row) * dimensions + k] = from<T>(d_rows[blockIdx.x * dimensions + k] * unboost);
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
      if (out.none) static_cast<F*>(out.loss)[row] = F(term);
      loss.value += term;
    }
    loss = block_reduce(loss, scratch, AddSums());
    if (threadIdx.x == 0 && !out.none) *static_cast<F*>(out.loss) = F(loss.value);
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

}  // namespace

void launch_compaction(const CompactInput& input, const CompactRows& rows, cudaStream_t stream) {
  compaction<<<1, kCompactThreads, 0, stream>>>(input, rows);
}

void launch_gather(Element element, const void* hidden, int64_t stride, int64_t dimensions, const CompactRows& rows,
                   int64_t first, int64_t count, void* out, cudaStream_t stream) {
  MMPT_BY_ELEMENT(element, gather<T><<<unsigned(count), 256, 0, stream>>>(
                               static_cast<const T*>(hidden), stride, dimensions, rows, first, static_cast<T*>(out)));
}

int multiprocessor_count() { return multiprocessors(); }

void launch_scatter_hidden(Element element, const void* d_rows, int64_t dimensions, const CompactRows& rows,
                           int64_t first, int64_t count, void* d_hidden, cudaStream_t stream) {
  MMPT_BY_ELEMENT(element, using F = typename Wide<T>::type; (scatter_hidden<T, F><<<unsigned(count), 256, 0, stream>>>(
      static_cast<const F*>(d_rows), dimensions, rows, first, static_cast<T*>(d_hidden))));
}

void launch_finish(const CompactRows& rows, const RowResults& results, const FinalOutputs& out, cudaStream_t stream) {
  const unsigned blocks = unsigned(1 + out.groups);
  if (out.wide) finish<double><<<blocks, 512, 0, stream>>>(rows, results, out);
  else finish<float><<<blocks, 512, 0, stream>>>(rows, results, out);
}

}  // namespace mmpt
