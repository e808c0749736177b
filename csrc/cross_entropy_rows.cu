// The row kernel of the masked cross-entropy on CUDA: softmax statistics of a row of logits, and the gradient in its
// place.
//
// A row is read once: on sm_90 and newer a cluster of up to 8 blocks holds the row in shared memory (V = 164,021 bf16
// is 328 KB, 4 blocks), exchanges maximum and sum through distributed shared memory, and writes the gradient over the
// logits. Where the row does not fit (older cards), it is read twice, the second time mostly from L2. Arithmetic is
// fp32 (fp64 for fp64); only what is stored is the element type.
//
// Instructions bound it as much as memory: 0.66 MB per row take 0.15 us at 4.3 TB/s, and each instruction per element
// 0.0054 us, on 528 schedulers of 32 lanes at 1.8 GHz. Packs of 16 bytes that hold nothing but allowed ids therefore
// have loops of their own (`add_whole`, `write_whole`), without a test per element: the largest logit is remembered by
// pack, the target is looked up apart. `.ci/spills` counts their instructions.
#include <cmath>
#include <cstring>

#include "cuda_device.cuh"
#include "linear_cross_entropy.cuh"

namespace mmpt {
namespace {

constexpr int kRowThreads = 512;
constexpr int kMaxCluster = 8;

constexpr int kNoId = 0x7fffffff;

// Running softmax of some columns of one row. best is the lowest id with the largest logit.
template <typename F>
struct Running {
  F max, sum, logits, target;
  int best;
  template <typename G>
  __device__ Running each(G of) const {
    return {of(max), of(sum), of(logits), of(target), of(best)};
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

// This thread's first pack at or after `from`: a pack is one thread's in both walks.
__device__ __forceinline__ int own_pack(int from) { return from + ((int(threadIdx.x) - from) & (kRowThreads - 1)); }

// The packs of a block's slice that hold columns of one segment. Column j of pack i is id id_of_first + i * kPack + j;
// [first, end) hold an allowed id, [whole, last) nothing else. No pack straddles the segments: they are padded apart.
struct SegmentPacks {
  int id_of_first, first, whole, last, end;
  int lo, hi;  // the allowed ids of the segment
  __device__ bool is_whole(int i) const { return whole <= i && i < last; }
  // Pack i of this thread, or its next one that is not whole.
  __device__ int edge_from(int i) const { return is_whole(i) ? own_pack(last) : i; }
};

// plain: whether packs that are wholly allowed may take the short loops.
template <int kPack>
__device__ __forceinline__ SegmentPacks packs_of(int id, int count, int column, int begin, int packs, int lo, int hi,
                                                 bool plain) {
  SegmentPacks out;
  out.id_of_first = id - column + begin;
  out.lo = max(lo, id), out.hi = min(hi, id + count);
  const auto pack = [&](int of) { return min(max(of - out.id_of_first, 0) / kPack, packs); };
  if (out.lo >= out.hi) {
    out.first = out.whole = out.last = out.end = pack(id);
    return out;
  }
  out.first = pack(out.lo), out.end = pack(out.hi + kPack - 1);
  out.whole = pack(out.lo + kPack - 1), out.last = pack(out.hi);
  if (!plain || out.whole > out.last) out.whole = out.last = out.end;
  return out;
}

// exp(z - base). Where the result is stored in 8 or 11 bits anyway: one multiply-add and the special function unit.
template <typename T, typename F>
struct Exponential {
  F base;
  __device__ explicit Exponential(F base) : base(base) {}
  __device__ F operator()(F z) const { return exp(z - base); }
};
struct FastExponential {
  static constexpr float kLog2E = 1.4426950408889634f;
  float offset;
  __device__ explicit FastExponential(float base) : offset(-base * kLog2E) {}
  __device__ float operator()(float z) const { return fast_exp2(fmaf(z, kLog2E, offset)); }
};
template <>
struct Exponential<__nv_bfloat16, float> : FastExponential {
  using FastExponential::FastExponential;
};
template <>
struct Exponential<__half, float> : FastExponential {
  using FastExponential::FastExponential;
};

template <typename F>
struct RowMath {
  F softcap, lse, slope, shift, own;  // dz = (exp(z - lse) * slope - shift - own at the target) * d(softcap)
  __device__ F cap(F z) const { return softcap > F(0) ? softcap * tanh(z / softcap) : z; }
  template <typename T>
  __device__ F gradient(F z, bool is_target) const {
    F d = Exponential<T, F>(lse)(z) * slope - shift - (is_target ? own : F(0));
    if (softcap > F(0)) d *= F(1) - (z / softcap) * (z / softcap);
    return d;
  }
};

// A row's logits that one block has: in device memory, and in shared memory where kCached.
template <typename T, bool kCached>
struct Slice {
  Pack<T>* row;
  Pack<T>* cache;
  __device__ __forceinline__ Pack<T> first_read(int i) const {
    const Pack<T> pack = row[i];
    if (kCached) cache[i] = pack;
    return pack;
  }
  __device__ __forceinline__ Pack<T> again(int i) const { return kCached ? cache[i] : row[i]; }
};

// Adds columns z[0 .. count) to a running softmax, whose maximum has been raised to theirs. NaN stays in the sum.
template <typename T, typename F, int kCount>
__device__ __forceinline__ void add_exponentials(const F* z, Running<F>& own) {
  // Nothing but -inf so far: exp(-inf - 0) adds 0.
  const Exponential<T, F> exponential(own.max == F(-INFINITY) ? F(0) : own.max);
  F even = exponential(z[0]), odd = exponential(z[1]);
#pragma unroll
  for (int j = 2; j < kCount; j += 2) even += exponential(z[j]), odd += exponential(z[j + 1]);
  own.sum += even + odd;
}

template <typename T, typename F>
__device__ __forceinline__ void raise_max(F top, Running<F>& own) {
  own.sum = own.sum == F(0) ? F(0) : own.sum * Exponential<T, F>(top)(own.max);
  own.max = top;
}

template <typename F, int kCount>
__device__ __forceinline__ F largest(const F* z) {
  F even = z[0], odd = z[1];
#pragma unroll
  for (int j = 2; j < kCount; j += 2) even = fmax(even, z[j]), odd = fmax(odd, z[j + 1]);
  return fmax(even, odd);
}

// Statistics of this thread's packs of [whole, last), two loads in flight.
template <typename T, bool kCached, typename F>
__device__ __forceinline__ void add_whole(const Slice<T, kCached>& slice, const SegmentPacks& of, Running<F>& own) {
  constexpr int kPack = 16 / sizeof(T);
  int best = -1;
  const auto add = [&](const F* z, int first, auto packs) {
    constexpr int kPacks = decltype(packs)::value;
    const F top = largest<F, kPacks * kPack>(z);
    if (top > own.max) {  // seldom: about log(packs) times
      best = kPacks == 1 || largest<F, kPack>(z) == top ? first : first + kRowThreads;
      raise_max<T>(top, own);
    }
    add_exponentials<T, F, kPacks * kPack>(z, own);
  };
  int i = own_pack(of.whole);
  for (; i + kRowThreads < of.last; i += 2 * kRowThreads) {
    const Pack<T> a = slice.first_read(i), b = slice.first_read(i + kRowThreads);
    F z[2 * kPack];
#pragma unroll
    for (int j = 0; j < kPack; ++j) z[j] = widen(a.value[j]), z[kPack + j] = widen(b.value[j]);
    add(z, i, Constant<2>());
  }
  if (i < of.last) {
    const Pack<T> a = slice.first_read(i);
    F z[kPack];
#pragma unroll
    for (int j = 0; j < kPack; ++j) z[j] = widen(a.value[j]);
    add(z, i, Constant<1>());
  }
  if (best < 0) return;
  const Pack<T> pack = slice.again(best);
  for (int j = kPack - 1; j >= 0; --j)
    if (widen(pack.value[j]) == own.max) own.best = of.id_of_first + best * kPack + j;
}

// Statistics of this thread's packs of [first, whole) and [last, end), column by column.
template <typename T, bool kCached, typename F>
__device__ __forceinline__ void add_columns(const Slice<T, kCached>& slice, const SegmentPacks& of,
                                            const RowMath<F>& math, Running<F>& own) {
  constexpr int kPack = 16 / sizeof(T);
  for (int i = of.edge_from(own_pack(of.first)); i < of.end; i = of.edge_from(i + kRowThreads)) {
    const Pack<T> pack = slice.first_read(i);
    const int id = of.id_of_first + i * kPack;
    F z[kPack], top = -INFINITY;
    int best = kNoId;
    for (int j = 0; j < kPack; ++j) {
      const bool allowed = of.lo <= id + j && id + j < of.hi;
      z[j] = allowed ? math.cap(widen(pack.value[j])) : F(-INFINITY);
      if (z[j] > top) top = z[j], best = id + j;
      own.logits += allowed ? z[j] : F(0);
    }
    if (top > own.max) raise_max<T>(top, own), own.best = best;
    else if (top == own.max && best < own.best) own.best = best;
    add_exponentials<T, F, kPack>(z, own);
  }
}

// Gradient of a pack, column by column.
template <typename T, typename F>
__device__ __forceinline__ Pack<T> gradient_of(const Pack<T>& pack, const SegmentPacks& of, int i, int target,
                                               const RowMath<F>& math) {
  constexpr int kPack = 16 / sizeof(T);
  const int id = of.id_of_first + i * kPack;
  Pack<T> out;
  for (int j = 0; j < kPack; ++j) {
    const F d = math.template gradient<T>(math.cap(widen(pack.value[j])), id + j == target);
    out.value[j] = from<T>(of.lo <= id + j && id + j < of.hi ? d : F(0));
  }
  return out;
}

// Gradients of this thread's packs of [whole, last), as if none held the target. Label smoothing does not come here.
template <typename T, bool kCached, typename F>
__device__ __forceinline__ void write_whole(const Slice<T, kCached>& slice, const SegmentPacks& of,
                                            const RowMath<F>& math) {
  constexpr int kPack = 16 / sizeof(T);
  const Exponential<T, F> probability(math.lse);
  const auto write = [&](const Pack<T>& pack, int i) {
    Pack<T> out;
#pragma unroll
    for (int j = 0; j < kPack; ++j) out.value[j] = from<T>(probability(widen(pack.value[j])) * math.slope);
    slice.row[i] = out;
  };
  int i = own_pack(of.whole);
  for (; i + kRowThreads < of.last; i += 2 * kRowThreads) {
    const Pack<T> a = slice.again(i), b = slice.again(i + kRowThreads);
    write(a, i);
    write(b, i + kRowThreads);
  }
  if (i < of.last) write(slice.again(i), i);
}

// All blocks of a cluster put their part in `mine`; each gets the merged whole, ranks in order.
template <typename F>
__device__ __forceinline__ Running<F> cluster_merge(const Running<F>& part, Running<F>* mine) {
  if (threadIdx.x == 0) *mine = part;
  cluster_sync();
  Running<F> total{};
  for (unsigned rank = 0; rank < cluster_size(); ++rank) {
    Running<F> other;
    uint32_t words[sizeof(other) / 4];
    for (unsigned i = 0; i < sizeof(other) / 4; ++i)
      words[i] = cluster_load(reinterpret_cast<uint32_t*>(mine) + i, rank);
    memcpy(&other, words, sizeof(other));
    total = rank ? MergeRunning<F>()(total, other) : other;
  }
  cluster_sync();  // nobody leaves, or writes `mine` again, while others read
  return total;
}

// One cluster for each row. kCached: both walks are taken, and the block's slice of the row stays in shared memory
// between them.
template <typename T, bool kCached>
__global__ void __launch_bounds__(kRowThreads, sizeof(T) == 2 ? 2 : 1)
    row_kernel(T* logits, Columns columns, CompactRows rows, int64_t first, RowOptions options, RowResults results,
               int64_t slice_columns) {
  using F = typename Wide<T>::type;
  constexpr int kPack = 16 / sizeof(T);
  extern __shared__ __align__(16) unsigned char storage[];
  __shared__ Running<F> scratch[32];
  __shared__ Running<F> mine;

  const unsigned blocks = cluster_size(), rank = cluster_rank();
  const int64_t local = blockIdx.x / blocks, at = first + local;
  const int begin = int(rank * slice_columns);
  const int packs = max(int(min(int64_t(begin) + slice_columns, columns.stride)) - begin, 0) / kPack;
  const Slice<T, kCached> slice{reinterpret_cast<Pack<T>*>(logits + local * columns.stride + begin),
                                reinterpret_cast<Pack<T>*>(storage)};
  const auto clear = [&](int from, int to) {
    for (int i = own_pack(from); i < to; i += kRowThreads) slice.row[i] = Pack<T>{};
  };
  if (rows.row[at] < 0) {  // beyond the supervised rows; the whole cluster agrees
    if (options.write_gradient) clear(0, packs);
    return;
  }
  const int lo = int(rows.lo[at]), hi = int(rows.hi[at]), target = int(rows.target[at]);
  const F weight = F(rows.weight[at] * rows.info->scale * rows.info->boost);
  const F eps = F(options.label_smoothing), width = F(hi - lo);
  RowMath<F> math{F(options.softcap), F(0), F(0), F(0), F(0)};
  const bool plain = options.softcap == 0 && options.label_smoothing == 0;
  // The first segment, and the second. They are chosen by value: an array that is indexed would lie in local memory.
  const SegmentPacks base =
      packs_of<kPack>(int(columns.base_first), int(columns.base_count), 0, begin, packs, lo, hi, plain);
  const SegmentPacks more = packs_of<kPack>(int(columns.new_first), int(columns.new_count), int(columns.base_padded),
                                            begin, packs, lo, hi, plain);

  // The target's pack, where it is this thread's: kept, since the gradient is written over it.
  const SegmentPacks its = target >= more.lo && target < more.hi ? more : base;
  const bool in_segment = target >= its.lo && target < its.hi && target >= its.id_of_first;
  const int target_pack = in_segment ? (target - its.id_of_first) / kPack : packs;
  const bool owns_target = target_pack < packs && own_pack(target_pack) == target_pack;
  Pack<T> kept{};
  if (owns_target) kept = slice.row[target_pack];

  if (!options.given_lse) {
    Running<F> own{-INFINITY, F(0), F(0), F(0), kNoId};
#pragma unroll 1
    for (int s = 0; s < 2; ++s) {
      const SegmentPacks segment = s ? more : base;
      add_whole(slice, segment, own);
      add_columns(slice, segment, math, own);
    }
    if (owns_target)
      for (int j = 0; j < kPack; ++j)
        if (its.id_of_first + target_pack * kPack + j == target) own.target = math.cap(widen(kept.value[j]));
    Running<F> total = block_reduce(own, scratch, MergeRunning<F>());
    if (blocks > 1) total = cluster_merge(total, &mine);
    const F lse = total.max + log(total.sum);
    math.lse = lse;
    if (rank == 0 && threadIdx.x == 0) {
      const F nll = lse - total.target, z_loss = F(options.z_loss);
      results.lse[at] = lse;
      results.nll[at] = nll;
      results.term[at] =
          (F(1) - eps) * nll + (eps > F(0) ? eps * (lse - total.logits / width) : F(0)) + z_loss * lse * lse;
      results.correct[at] = total.best == target;
    }
  } else {
    math.lse = F(results.lse[at]);
  }
  if (!options.write_gradient) return;
  math.slope = weight * (F(1) + F(2) * F(options.z_loss) * math.lse);
  math.shift = weight * eps / width;
  math.own = weight * (F(1) - eps);
  int done = 0;
#pragma unroll 1
  for (int s = 0; s < 2; ++s) {
    const SegmentPacks segment = s ? more : base;
    clear(done, segment.first);
    done = segment.end;
    write_whole(slice, segment, math);
    for (int i = segment.edge_from(own_pack(segment.first)); i < segment.end; i = segment.edge_from(i + kRowThreads))
      slice.row[i] = gradient_of(slice.again(i), segment, i, target, math);
  }
  clear(done, packs);
  if (owns_target && its.is_whole(target_pack))
    slice.row[target_pack] = gradient_of(kept, its, target_pack, target, math);
}

template <typename T>
void launch_rows_of(T* logits, const Columns& columns, const CompactRows& rows, int64_t first, int64_t count,
                    const RowOptions& options, const RowResults& results, cudaStream_t stream) {
  // Whether the code that runs knows clusters, which is not what the card knows: code built for sm_80 runs on sm_90
  // from its PTX, and would take each block of a cluster for a whole one.
  cudaFuncAttributes code{};
  cudaFuncGetAttributes(&code, row_kernel<T, true>);
  const bool clusters = code.ptxVersion >= 90;
  const int64_t room = dynamic_shared_limit();
  const int64_t row_bytes = columns.stride * int64_t(sizeof(T));
  int cluster = 1;
  while (clusters && cluster < kMaxCluster && row_bytes / cluster > room / 2) cluster *= 2;  // two blocks an SM
  const int64_t slice = (columns.stride / 64 + cluster - 1) / cluster * 64;
  const int64_t bytes = slice * int64_t(sizeof(T));
  const bool cached = bytes <= room && options.write_gradient && !options.given_lse;
  auto kernel = cached ? row_kernel<T, true> : row_kernel<T, false>;
  if (cached) cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(room));
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

void launch_rows(Element element, void* logits, const Columns& columns, const CompactRows& rows, int64_t first,
                 int64_t count, const RowOptions& options, const RowResults& results, cudaStream_t stream) {
  MMPT_BY_ELEMENT(element,
                  launch_rows_of(static_cast<T*>(logits), columns, rows, first, count, options, results, stream));
}

}  // namespace mmpt
