// Masked cross-entropy on the CPU.
//
// Supervised rows are gathered, ordered by their allowed range and cut into blocks of 64 lanes; the range's ids are cut
// into partitions, whose number depends on the range alone, so a result does not depend on the thread count. A
// partition walks its ids tile by tile (a tile of the head stays in L2) and does everything a tile is needed for:
// logits, the running maximum and sum, and, where hidden trains, the running sum of exp(z - max) * weight, rescaled
// whenever the maximum grows. So the head is read once, 4 S V H flops, and no [S, V] array exists. Partitions merge in
// order. Weight rows that train are multiplied again afterwards, when lse is known: 4 S T H, with T << V.
// Label smoothing, and backward of "none", take the plain way: lse first, then gradients.
#include "linear_cross_entropy.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <cstdlib>
#include <numeric>
#include <utility>
#include <vector>

#include "tiles.h"

namespace mmpt {
namespace {

constexpr int64_t kMaxPartitions = 32;
constexpr int64_t kPartitionIds = 512;            // fewer ids than this are not worth a partition
constexpr int64_t kTileBytes = int64_t(1) << 20;  // of head rows: half of a 2 MiB L2, all of a 1 MiB one
constexpr int64_t kTileStep = 192;                // ids; a multiple of both products' slices
constexpr int64_t kPartialBytes = int64_t(64) << 20;
constexpr int64_t kMaxBlocks = 8;

int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

template <typename T>
struct Buffer {  // uninitialised, 64-byte aligned
  explicit Buffer(int64_t count)
      : data(count ? static_cast<T*>(std::aligned_alloc(64, round_up(count * int64_t(sizeof(T)), 64))) : nullptr) {
    TORCH_CHECK(!count || data, "out of memory: ", count * int64_t(sizeof(T)), " bytes of scratch");
  }
  Buffer(Buffer&& other) noexcept : data(std::exchange(other.data, nullptr)) {}
  Buffer(const Buffer&) = delete;
  ~Buffer() { std::free(data); }
  T* data;
};

// Rows that share a range, and where they start in the ordered rows.
struct Span {
  int64_t lo, hi, begin, end;
};

// The supervised rows of a call, ordered by range, with the numbers that belong to each.
struct Supervised {
  std::vector<int64_t> row, target;
  std::vector<double> weight;
  std::vector<Span> spans;
};

Supervised supervised_rows(const CrossEntropy& call) {
  const at::Tensor labels = call.labels.to(at::kLong).contiguous();
  const int64_t* label = labels.const_data_ptr<int64_t>();
  const int64_t count = call.rows(), vocabulary = call.vocabulary();
  at::Tensor lo, hi;
  if (call.row_lo) lo = call.row_lo->to(at::kLong).contiguous();
  if (call.row_hi) hi = call.row_hi->to(at::kLong).contiguous();
  const auto lower = [&](int64_t row) { return lo.defined() ? lo.const_data_ptr<int64_t>()[row] : call.lo; };
  const auto upper = [&](int64_t row) {
    return hi.defined() ? hi.const_data_ptr<int64_t>()[row] : (call.hi < 0 ? vocabulary : call.hi);
  };
  Supervised out;
  for (int64_t row = 0; row < count; ++row) {
    if (label[row] == call.ignore_index) continue;
    TORCH_CHECK_VALUE(0 <= lower(row) && lower(row) < upper(row) && upper(row) <= vocabulary, "column range [",
                      lower(row), ", ", upper(row), ") of row ", row, " is not within [0, ", vocabulary, ")");
    TORCH_CHECK_VALUE(lower(row) <= label[row] && label[row] < upper(row), "label ", label[row], " of row ", row,
                      " is outside its range [", lower(row), ", ", upper(row), ")");
    out.row.push_back(row);
  }
  if (lo.defined() || hi.defined())
    std::stable_sort(out.row.begin(), out.row.end(), [&](int64_t a, int64_t b) {
      return std::pair(lower(a), upper(a)) < std::pair(lower(b), upper(b));
    });
  for (int64_t i = 0; i < int64_t(out.row.size()); ++i) {
    const int64_t row = out.row[i];
    out.target.push_back(label[row]);
    if (out.spans.empty() || out.spans.back().lo != lower(row) || out.spans.back().hi != upper(row))
      out.spans.push_back({lower(row), upper(row), i, i});
    out.spans.back().end = i + 1;
  }
  out.weight.assign(out.row.size(), 1.0);
  if (call.token_weight) {
    const at::Tensor weight = call.token_weight->to(at::kDouble).contiguous();
    for (size_t i = 0; i < out.row.size(); ++i) out.weight[i] = weight.const_data_ptr<double>()[out.row[i]];
  }
  return out;
}

// Elements [rows][columns] of a strided matrix as D, side by side with zeros up to `width`.
template <typename D>
void gather(const at::Tensor& matrix, int64_t first, int64_t rows, D* out, int64_t width) {
  const int64_t columns = matrix.size(1), row_step = matrix.stride(0), step = matrix.stride(1);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, matrix.scalar_type(), "gather", [&] {
    const scalar_t* data = matrix.const_data_ptr<scalar_t>() + first * row_step;
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < columns; ++j) out[i * width + j] = static_cast<D>(data[i * row_step + j * step]);
      std::fill(out + i * width + columns, out + (i + 1) * width, D(0.f));
    }
  });
}

// One matrix of the head: ids first .. first + count.
template <typename T>
struct Segment {
  const at::Tensor* weight;
  int64_t first, count;
  bool pairs;       // bf16 products
  bool in_place;    // tiles are read as they lie in memory
  T* grad;          // [count][H], null where it does not train
  bool grad_fresh;  // grad holds nothing yet: the first block of rows writes it

  // Rows of a tile, and their distance in elements.
  const void* tile(int64_t row, int64_t n, int64_t padded, void* scratch, int64_t& ld) const {
    if (in_place) {
      ld = weight->stride(0);
      return static_cast<const char*>(weight->const_data_ptr()) + row * ld * weight->element_size();
    }
    ld = padded;
    if (pairs)
      gather(*weight, row, n, static_cast<at::BFloat16*>(scratch), padded);
    else
      gather(*weight, row, n, static_cast<T*>(scratch), padded);
    return scratch;
  }
};

// One block of hidden rows, in the layouts the products want.
template <typename T>
struct Block {
  Block(const at::Tensor& hidden, const int64_t* row, int64_t count, int64_t lanes, int64_t padded, bool plain,
        bool pairs)
      : count(count),
        lanes(lanes),
        rows(plain ? lanes * padded : 0),
        columns(plain ? lanes * padded : 0),
        pair_rows(pairs ? lanes * padded : 0),
        pair_columns(pairs ? lanes * padded / 2 : 0) {
    for (int64_t lane = 0; lane < count && plain; ++lane) gather(hidden, row[lane], 1, rows.data + lane * padded, padded);
    if (plain) {
      std::fill(rows.data + count * padded, rows.data + lanes * padded, T(0));
      for (int64_t lane = 0; lane < lanes; ++lane)
        for (int64_t k = 0; k < padded; ++k) columns.data[k * lanes + lane] = rows.data[lane * padded + k];
    }
    for (int64_t lane = 0; lane < count && pairs; ++lane)
      gather(hidden, row[lane], 1, pair_rows.data + lane * padded, padded);
    if (pairs) {
      std::fill(pair_rows.data + count * padded, pair_rows.data + lanes * padded, at::BFloat16(0.f));
      for (int64_t lane = 0; lane < lanes; ++lane)
        for (int64_t k = 0; k < padded / 2; ++k)
          std::memcpy(pair_columns.data + k * lanes + lane, pair_rows.data + lane * padded + 2 * k, 4);
    }
  }
  int64_t count, lanes;
  Buffer<T> rows;                  // [lanes][padded]
  Buffer<T> columns;               // [padded][lanes]
  Buffer<at::BFloat16> pair_rows;  // [lanes][padded]
  Buffer<uint32_t> pair_columns;   // [padded / 2][lanes]
};

enum class Mode { kLoss, kLossAndHidden, kGradient };

template <typename T>
struct Scratch {
  Scratch(int64_t tile, int64_t padded, bool gathers, bool pads_gradient)
      : logits(tile * kBlock),
        ids(tile * kBlock / 2 + 16 * kBlock),
        lanes(tile * kBlock),
        weight(gathers ? tile * padded : 0),
        gradient(pads_gradient ? tile * padded : 0) {}
  Buffer<T> logits;        // [tile][lanes]
  Buffer<uint32_t> ids;    // pairs over ids, [lanes][tile / 2]
  Buffer<uint16_t> lanes;  // bf16 [tile][lanes]
  Buffer<T> weight;        // a tile that could not be read in place
  Buffer<T> gradient;      // weight gradients of a tile, where H needs padding
};

// One pass over all partitions of one span for one chunk of blocks.
template <typename T>
class Pass {
 public:
  Pass(const CrossEntropy& call, const Supervised& rows, const std::vector<Segment<T>>& segments, const Span& span,
       int64_t begin, int64_t end, bool fresh)
      : call_(call), rows_(rows), segments_(segments), span_(span), begin_(begin), fresh_(fresh) {
    set_ = &instruction_set();
    if constexpr (sizeof(T) == 4) kernels_ = set_->f32;
    else kernels_ = set_->f64;
    padded_ = round_up(call.dimensions(), kDimensionStep);
    bool plain = false, pairs = false;
    for (const auto& s : segments) (s.pairs ? pairs : plain) = true;
    for (int64_t at = begin; at < end; at += kBlock) {
      const int64_t count = std::min<int64_t>(kBlock, end - at);
      const int64_t lanes = round_up(count, pairs ? 2 * kLaneStep : kLaneStep);
      blocks_.emplace_back(call.hidden, rows.row.data() + at, count, lanes, padded_, plain, pairs);
    }
    const int64_t bytes = padded_ * (pairs && !plain ? 2 : int64_t(sizeof(T)));
    tile_ = std::clamp(kTileBytes / bytes / kTileStep, int64_t(1), int64_t(4)) * kTileStep;
  }

  // lse, nll, target logit, best id and mean logit of each row; with kLossAndHidden also d_hidden by `weight`.
  void loss(bool want_hidden, double* lse, double* target_logit, double* mean_logit, int32_t* best) {
    mode_ = want_hidden ? Mode::kLossAndHidden : Mode::kLoss;
    run(span_.lo, span_.hi, want_hidden, target_logit);
    for (size_t b = 0; b < blocks_.size(); ++b)
      for (int64_t lane = 0; lane < blocks_[b].count; ++lane)
        merge(b, lane, lse, mean_logit, best);
  }

  // d_hidden of kLossAndHidden, once lse is known: rows of `out` [N, H].
  void write_hidden_of_loss(const double* lse, const double* target_logit, at::Tensor& out) {
    write_hidden(out, [&](int64_t i, const OnlineState<T>* state, int64_t lane, double* factor) {
      const double scale = rows_.weight[i] * (1 + 2 * call_.z_loss * lse[i]);
      for (int64_t p = 0; p < partitions_; ++p)
        factor[p] = scale * std::exp(double(state[p * int64_t(blocks_.size())].max[lane]) - lse[i]);
      return rows_.weight[i] * slope(target_logit[i]);
    });
  }

  // Gradients with lse known: weight rows into the segments' grad, hidden rows into `out` if it is wanted.
  void gradient(const double* lse, at::Tensor* out) {
    mode_ = Mode::kGradient;
    for (size_t b = 0; b < blocks_.size(); ++b) lanes_of_.push_back(lanes_of(b, lse));
    if (out) {
      run(span_.lo, span_.hi, true, nullptr);
      write_hidden(*out, [&](int64_t, const OnlineState<T>*, int64_t, double* factor) {
        std::fill(factor, factor + partitions_, 1.0);
        return 0.0;
      });
      return;
    }
    for (const auto& s : segments_)
      if (s.grad) run(std::max(span_.lo, s.first), std::min(span_.hi, s.first + s.count), false, nullptr);
  }

 private:
  double slope(double logit) const {
    return call_.softcap > 0 ? 1 - (logit / call_.softcap) * (logit / call_.softcap) : 1.0;
  }

  GradientLanes<T> lanes_of(size_t b, const double* lse) const {
    GradientLanes<T> out{};
    for (int64_t lane = 0; lane < blocks_[b].count; ++lane) {
      const int64_t i = int64_t(b) * kBlock + lane;
      const double weight = rows_.weight[begin_ + i], width = double(span_.hi - span_.lo);
      out.lse[lane] = T(lse[begin_ + i]);
      out.slope[lane] = T(weight * (1 + 2 * call_.z_loss * lse[begin_ + i]));
      out.shift[lane] = T(weight * call_.label_smoothing / width);
    }
    return out;
  }

  void run(int64_t lo, int64_t hi, bool hidden, double* target_logit) {
    if (lo >= hi) return;
    const int64_t width = hi - lo;
    partitions_ = std::clamp(width / kPartitionIds, int64_t(1), kMaxPartitions);
    const int64_t share = round_up((width + partitions_ - 1) / partitions_, kDimensionStep);
    partitions_ = (width + share - 1) / share;
    states_.assign(partitions_ * blocks_.size(), fresh_state());
    partials_.clear();
    for (int64_t p = 0; p < partitions_ && hidden; ++p)
      for (const auto& block : blocks_) partials_.emplace_back(block.lanes * padded_);
    bool gathers = false, pads = call_.dimensions() % kDimensionStep != 0;
    for (const auto& s : segments_) gathers |= !s.in_place;
    at::parallel_for(0, partitions_, 1, [&](int64_t from, int64_t to) {
      Scratch<T> scratch(tile_, padded_, gathers, pads);
      for (int64_t p = from; p < to; ++p)
        walk(p, lo + p * share, std::min(hi, lo + (p + 1) * share), hidden, target_logit, scratch);
    });
  }

  static OnlineState<T> fresh_state() {
    OnlineState<T> state{};
    std::fill(state.max, state.max + kBlock, -std::numeric_limits<T>::infinity());
    std::fill(state.best, state.best + kBlock, -1);
    return state;
  }

  void walk(int64_t p, int64_t lo, int64_t hi, bool hidden, double* target_logit, Scratch<T>& scratch) {
    bool first = true;
    for (int64_t id = lo; id < hi;) {
      const auto s = std::find_if(segments_.begin(), segments_.end(),
                                  [&](const Segment<T>& x) { return id < x.first + x.count; });
      const int64_t n = std::min({tile_, hi - id, s->first + s->count - id});
      int64_t ld;
      const void* weight = s->tile(id - s->first, n, padded_, scratch.weight.data, ld);
      for (size_t b = 0; b < blocks_.size(); ++b) {
        logits(*s, blocks_[b], weight, ld, n, scratch);
        if (mode_ == Mode::kGradient)
          to_gradient(b, id, n, scratch);
        else
          to_exponentials(p, b, id, n, target_logit, scratch);
        if (hidden) add_hidden(p, b, *s, weight, ld, n, first, scratch);
        if (mode_ == Mode::kGradient && s->grad) add_weight(b, *s, id - s->first, n, scratch);
      }
      first = false;
      id += n;
    }
  }

  void logits(const Segment<T>& s, const Block<T>& block, const void* weight, int64_t ld, int64_t n,
              Scratch<T>& scratch) const {
    if (s.pairs) {
      if constexpr (sizeof(T) == 4)
        set_->pairs->product(static_cast<const uint32_t*>(weight), ld / 2, block.pair_columns.data, block.lanes, true,
                             0, scratch.logits.data, block.lanes, n, block.lanes, padded_ / 2, false);
    } else {
      kernels_->product(static_cast<const T*>(weight), ld, 1, block.columns.data, block.lanes, scratch.logits.data,
                        block.lanes, n, block.lanes, call_.dimensions(), false);
    }
    if (call_.softcap > 0) kernels_->softcap(scratch.logits.data, n * block.lanes, T(call_.softcap));
  }

  template <typename F>
  void each_target(size_t b, int64_t id, int64_t n, F&& use) const {
    for (int64_t lane = 0; lane < blocks_[b].count; ++lane) {
      const int64_t i = begin_ + int64_t(b) * kBlock + lane, at = rows_.target[i] - id;
      if (0 <= at && at < n) use(i, at * blocks_[b].lanes + lane);
    }
  }

  void to_exponentials(int64_t p, size_t b, int64_t id, int64_t n, double* target_logit, Scratch<T>& scratch) {
    T* z = scratch.logits.data;
    each_target(b, id, n, [&](int64_t i, int64_t at) { target_logit[i] = z[at]; });
    kernels_->online(z, n, blocks_[b].lanes, T(call_.softcap), id, states_[p * blocks_.size() + b]);
  }

  void to_gradient(size_t b, int64_t id, int64_t n, Scratch<T>& scratch) const {
    T* z = scratch.logits.data;
    T own[kBlock];
    each_target(b, id, n, [&](int64_t i, int64_t at) {
      own[i - begin_ - int64_t(b) * kBlock] =
          T(rows_.weight[i] * (1 - call_.label_smoothing) * slope(double(z[at])));
    });
    kernels_->gradient(z, n, blocks_[b].lanes, T(call_.softcap), lanes_of_[b]);
    each_target(b, id, n, [&](int64_t i, int64_t at) { z[at] -= own[i - begin_ - int64_t(b) * kBlock]; });
  }

  // The partial sum of z * weight, z being exponentials or gradients.
  void add_hidden(int64_t p, size_t b, const Segment<T>& s, const void* weight, int64_t ld, int64_t n, bool first,
                  Scratch<T>& scratch) {
    const Block<T>& block = blocks_[b];
    T* acc = partials_[p * blocks_.size() + b].data;
    if (!first && mode_ == Mode::kLossAndHidden)
      kernels_->rescale(acc, block.count, padded_, states_[p * blocks_.size() + b].rescale);
    if (!s.pairs) {
      kernels_->product(scratch.logits.data, 1, block.lanes, static_cast<const T*>(weight), ld, acc, padded_,
                        block.count, padded_, n, !first);
    } else if constexpr (sizeof(T) == 4) {
      const int64_t depth = round_up((n + 1) / 2, 16);
      set_->pairs->pair_ids(scratch.logits.data, n, block.lanes, scratch.ids.data, depth);
      set_->pairs->product(scratch.ids.data, depth, weight, ld, false, n, acc, padded_, block.lanes, padded_, depth,
                           !first);
    }
  }

  void add_weight(size_t b, const Segment<T>& s, int64_t row, int64_t n, Scratch<T>& scratch) const {
    const Block<T>& block = blocks_[b];
    const int64_t columns = call_.dimensions();
    const bool pads = columns != padded_, add = !(fresh_ && s.grad_fresh && b == 0);
    T* grad = s.grad + row * columns;
    T* out = pads ? scratch.gradient.data : grad;
    if (!s.pairs) {
      kernels_->product(scratch.logits.data, block.lanes, 1, block.rows.data, padded_, out, padded_, n, padded_,
                        block.count, add && !pads);
    } else if constexpr (sizeof(T) == 4) {
      set_->pairs->pair_lanes(scratch.logits.data, n * block.lanes, scratch.lanes.data);
      set_->pairs->product(reinterpret_cast<const uint32_t*>(scratch.lanes.data), block.lanes / 2,
                           block.pair_rows.data, padded_, false, block.lanes, out, padded_, n, padded_,
                           block.lanes / 2, add && !pads);
    }
    for (int64_t i = 0; i < n && pads; ++i)
      for (int64_t j = 0; j < columns; ++j)
        grad[i * columns + j] = (add ? grad[i * columns + j] : T(0)) + out[i * padded_ + j];
  }

  void merge(size_t b, int64_t lane, double* lse, double* mean_logit, int32_t* best) const {
    const int64_t i = begin_ + int64_t(b) * kBlock + lane;
    double top = -std::numeric_limits<double>::infinity(), total = 0, logits = 0;
    int32_t id = -1;
    for (int64_t p = 0; p < partitions_; ++p) {
      const OnlineState<T>& state = states_[p * blocks_.size() + b];
      if (double(state.max[lane]) > top) top = state.max[lane], id = state.best[lane];
    }
    for (int64_t p = 0; p < partitions_; ++p) {
      const OnlineState<T>& state = states_[p * blocks_.size() + b];
      total += double(state.sum[lane]) * std::exp(double(state.max[lane]) - top);
      logits += state.logit_sum[lane];
    }
    lse[i] = top + std::log(total);
    mean_logit[i] = logits / double(span_.hi - span_.lo);
    best[i] = id;
  }

  // out[row] = sum over partitions of factor * partial - own * weight[target]; `weigh` fills factor and returns own.
  template <typename F>
  void write_hidden(at::Tensor& out, F&& weigh) {
    const int64_t columns = call_.dimensions(), total = int64_t(blocks_.size()) * kBlock;
    AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, out.scalar_type(), "write_hidden", [&] {
      scalar_t* data = out.mutable_data_ptr<scalar_t>();
      at::parallel_for(0, total, 8, [&](int64_t from, int64_t to) {
        std::vector<double> factor(partitions_);
        std::vector<T> sum(padded_), row(padded_);
        for (int64_t at = from; at < to; ++at) {
          const int64_t b = at / kBlock, lane = at % kBlock, i = begin_ + at;
          if (lane >= blocks_[b].count) continue;
          const T own = T(weigh(i, states_.data() + b, lane, factor.data()));
          std::fill(sum.begin(), sum.end(), T(0));
          for (int64_t p = 0; p < partitions_; ++p) {
            const T* partial = partials_[p * blocks_.size() + b].data + lane * padded_;
            const T scale = T(factor[p]);
            for (int64_t j = 0; j < columns; ++j) sum[j] += scale * partial[j];
          }
          if (own != T(0)) {
            const auto s = std::find_if(segments_.begin(), segments_.end(), [&](const Segment<T>& x) {
              return rows_.target[i] < x.first + x.count;
            });
            gather(*s->weight, rows_.target[i] - s->first, 1, row.data(), padded_);
            for (int64_t j = 0; j < columns; ++j) sum[j] -= own * row[j];
          }
          for (int64_t j = 0; j < columns; ++j) data[rows_.row[i] * columns + j] = static_cast<scalar_t>(sum[j]);
        }
      });
    });
  }

  const CrossEntropy& call_;
  const Supervised& rows_;
  const std::vector<Segment<T>>& segments_;
  const Span& span_;
  int64_t begin_;
  bool fresh_;
  const InstructionSet* set_;
  const TileKernels<T>* kernels_;
  Mode mode_ = Mode::kLoss;
  int64_t padded_, tile_, partitions_ = 0;
  std::vector<Block<T>> blocks_;
  std::vector<GradientLanes<T>> lanes_of_;
  std::vector<OnlineState<T>> states_;   // [partition][block]
  std::vector<Buffer<T>> partials_;      // [partition][block] of [lanes][padded]
};

template <typename T>
struct Head {
  std::vector<Segment<T>> segments;
  at::Tensor d_base, d_new;
};

template <typename T>
Head<T> head_of(const CrossEntropy& call, const Supervised& rows) {
  Head<T> head;
  const auto options = call.hidden.options().dtype(sizeof(T) == 8 ? at::kDouble : at::kFloat);
  head.d_base = at::empty({0}, options), head.d_new = at::empty({0}, options);
  const auto add = [&](const at::Tensor& weight, int64_t first, bool trains, at::Tensor& grad) {
    Segment<T> s{&weight, first, weight.size(0), false, false, nullptr, false};
    s.pairs = sizeof(T) == 4 && call.hidden.scalar_type() == at::kBFloat16 &&
              weight.scalar_type() == at::kBFloat16 && instruction_set().pairs;
    const bool same = s.pairs || weight.scalar_type() == (sizeof(T) == 8 ? at::kDouble : at::kFloat);
    s.in_place = same && weight.size(1) % kDimensionStep == 0 && weight.stride(1) == 1 && weight.stride(0) % 2 == 0;
    if (trains) {
      s.grad_fresh = rows.spans.size() == 1 && rows.spans[0].lo <= first && first + s.count <= rows.spans[0].hi;
      grad = s.grad_fresh ? at::empty(weight.sizes(), options) : at::zeros(weight.sizes(), options);
      s.grad = grad.mutable_data_ptr<T>();
    }
    if (s.count) head.segments.push_back(s);
  };
  add(call.weight_base, 0, call.want_base, head.d_base);
  if (call.weight_new) add(*call.weight_new, call.base_rows(), call.want_new, head.d_new);
  return head;
}

// Rows [begin, end) of one pass: as many blocks as the partial sums of d_hidden leave room for.
template <typename F>
void each_chunk(const CrossEntropy& call, const Supervised& rows, int64_t element, F&& use) {
  const int64_t block_bytes = kMaxPartitions * kBlock * round_up(call.dimensions(), kDimensionStep) * element;
  const int64_t step = std::clamp(kPartialBytes / block_bytes, int64_t(1), kMaxBlocks) * kBlock;
  bool fresh = true;
  for (const Span& span : rows.spans)
    for (int64_t begin = span.begin; begin < span.end; begin += step, fresh = false)
      use(span, begin, std::min(span.end, begin + step), fresh);
}

at::Tensor hidden_gradient(const CrossEntropy& call) {
  return call.want_hidden ? at::zeros(call.hidden.sizes(), call.hidden.options().memory_format(at::MemoryFormat::Contiguous))
                          : at::empty({0}, call.hidden.options());
}

template <typename T>
ForwardResult forward(const CrossEntropy& call, const Reduction& reduction) {
  Supervised rows = supervised_rows(call);
  const int64_t count = int64_t(rows.row.size());
  TORCH_CHECK_VALUE(!reduction.max_valid || count <= *reduction.max_valid, count, " supervised rows, max_valid is ",
                    reduction.max_valid.value_or(0));
  if (reduction.kind == "mean" && count) {
    const double total = std::accumulate(rows.weight.begin(), rows.weight.end(), 0.0);
    for (double& weight : rows.weight) weight /= reduction.num_items.value_or(total);
  }
  Head<T> head = head_of<T>(call, rows);
  at::Tensor d_hidden = hidden_gradient(call);
  std::vector<double> lse(count), target_logit(count), mean_logit(count);
  std::vector<int32_t> best(count);
  const bool smooth = call.label_smoothing > 0, weights = call.want_base || call.want_new;
  each_chunk(call, rows, sizeof(T), [&](const Span& span, int64_t begin, int64_t end, bool fresh) {
    Pass<T> pass(call, rows, head.segments, span, begin, end, fresh);
    const bool online = call.want_hidden && !smooth;
    pass.loss(online, lse.data(), target_logit.data(), mean_logit.data(), best.data());
    if (online) pass.write_hidden_of_loss(lse.data(), target_logit.data(), d_hidden);
    if (weights || (call.want_hidden && smooth))
      pass.gradient(lse.data(), call.want_hidden && smooth ? &d_hidden : nullptr);
  });

  const int64_t n = call.rows();
  const auto options = call.hidden.options().dtype(sizeof(T) == 8 ? at::kDouble : at::kFloat);
  at::Tensor nll_out = at::zeros({n}, options), lse_out = at::zeros({n}, options);
  at::Tensor correct = at::zeros({n}, options.dtype(at::kBool));
  at::Tensor group_loss = at::zeros({reduction.num_groups}, options.dtype(at::kDouble));
  at::Tensor group_count = at::zeros({reduction.num_groups}, options.dtype(at::kLong));
  at::Tensor loss = at::zeros(reduction.kind == "none" ? std::vector<int64_t>{n} : std::vector<int64_t>{}, options);
  at::Tensor group;
  if (reduction.group) group = reduction.group->to(at::kLong).contiguous();
  std::vector<int64_t> order(count);  // sums run in the order of rows, whatever the ranges were
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return rows.row[a] < rows.row[b]; });
  double total = 0;
  for (const int64_t i : order) {
    const int64_t row = rows.row[i];
    const double nll = lse[i] - target_logit[i], eps = call.label_smoothing;
    const double term = (1 - eps) * nll + (eps > 0 ? eps * (lse[i] - mean_logit[i]) : 0) + call.z_loss * lse[i] * lse[i];
    nll_out.mutable_data_ptr<T>()[row] = T(nll);
    lse_out.mutable_data_ptr<T>()[row] = T(lse[i]);
    correct.mutable_data_ptr<bool>()[row] = best[i] == rows.target[i];
    total += term * rows.weight[i];
    if (reduction.kind == "none") loss.mutable_data_ptr<T>()[row] = T(term * rows.weight[i]);
    if (group.defined()) {
      const int64_t g = group.const_data_ptr<int64_t>()[row];
      TORCH_CHECK_VALUE(0 <= g && g < reduction.num_groups, "group id ", g, " of row ", row, ", num_groups is ",
                        reduction.num_groups);
      group_loss.mutable_data_ptr<double>()[g] += nll;
      group_count.mutable_data_ptr<int64_t>()[g] += 1;
    }
  }
  if (reduction.kind != "none") *loss.mutable_data_ptr<T>() = T(total);
  return {loss, nll_out, lse_out, correct, group_loss, group_count, d_hidden, head.d_base, head.d_new};
}

template <typename T>
Gradients backward(const CrossEntropy& call, const at::Tensor& lse_rows, const at::Tensor& upstream_rows) {
  Supervised rows = supervised_rows(call);
  Head<T> head = head_of<T>(call, rows);
  at::Tensor d_hidden = hidden_gradient(call);
  const at::Tensor upstream = upstream_rows.to(at::kDouble).contiguous();
  const at::Tensor lse_values = lse_rows.to(at::kDouble).contiguous();
  std::vector<double> lse(rows.row.size());
  for (size_t i = 0; i < rows.row.size(); ++i) {
    rows.weight[i] *= upstream.const_data_ptr<double>()[rows.row[i]];
    lse[i] = lse_values.const_data_ptr<double>()[rows.row[i]];
  }
  each_chunk(call, rows, sizeof(T), [&](const Span& span, int64_t begin, int64_t end, bool fresh) {
    Pass<T>(call, rows, head.segments, span, begin, end, fresh)
        .gradient(lse.data(), call.want_hidden ? &d_hidden : nullptr);
  });
  return {d_hidden, head.d_base, head.d_new};
}

}  // namespace

ForwardResult cross_entropy_cpu(const CrossEntropy& call, const Reduction& reduction) {
  return call.hidden.scalar_type() == at::kDouble ? forward<double>(call, reduction) : forward<float>(call, reduction);
}

Gradients cross_entropy_backward_cpu(const CrossEntropy& call, const at::Tensor& lse, const at::Tensor& upstream) {
  return call.hidden.scalar_type() == at::kDouble ? backward<double>(call, lse, upstream)
                                                  : backward<float>(call, lse, upstream);
}

}  // namespace mmpt
