// One pass of the CPU's masked cross-entropy over the ids of one range: losses, or gradients once lse is known.
#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "cross_entropy_parts.h"
#include "linear_cross_entropy.h"

namespace mmpt {

constexpr int64_t kMaxPartitions = 32;
constexpr int64_t kPartitionIds = 512;            // fewer ids than this are not worth a partition
constexpr int64_t kTileBytes = int64_t(1) << 20;  // of head rows: half of a 2 MiB L2, all of a 1 MiB one
constexpr int64_t kTileStep = 192;                // ids; a multiple of both products' slices
constexpr int64_t kPartialBytes = int64_t(64) << 20;
constexpr int64_t kMaxBlocks = 8;

enum class Mode { kLoss, kLossAndHidden, kGradient };

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
      for (int64_t lane = 0; lane < blocks_[b].count; ++lane) merge(b, lane, lse, mean_logit, best);
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
      if (s.trains()) run(std::max(span_.lo, s.first), std::min(span_.hi, s.first + s.count), false, nullptr);
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
    bool gathers = false, apart = call_.dimensions() != padded_;
    for (const auto& s : segments_) gathers |= !s.in_place, apart |= s.narrow.defined();
    at::parallel_for(0, partitions_, 1, [&](int64_t from, int64_t to) {
      Scratch<T> scratch(tile_, padded_, gathers, apart);
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
      const auto s =
          std::find_if(segments_.begin(), segments_.end(), [&](const Segment<T>& x) { return id < x.first + x.count; });
      const int64_t n = std::min({tile_, hi - id, s->first + s->count - id});
      int64_t ld;
      const void* weight = s->tile(id - s->first, n, padded_, scratch.weight.data, ld);
      for (size_t b = 0; b < blocks_.size(); ++b) {
        logits(*s, blocks_[b], weight, ld, n, scratch);
        if (mode_ == Mode::kGradient) to_gradient(b, id, n, scratch);
        else to_exponentials(p, b, id, n, target_logit, scratch);
        if (hidden) add_hidden(p, b, *s, weight, ld, n, first, scratch);
        if (mode_ == Mode::kGradient && s->trains()) add_weight(b, *s, id - s->first, n, scratch);
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
      own[i - begin_ - int64_t(b) * kBlock] = T(rows_.weight[i] * (1 - call_.label_smoothing) * slope(double(z[at])));
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

  // The tile's weight gradient: summed over blocks where it belongs, or apart and then brought there.
  void add_weight(size_t b, const Segment<T>& s, int64_t row, int64_t n, Scratch<T>& scratch) const {
    const Block<T>& block = blocks_[b];
    const int64_t columns = call_.dimensions();
    const bool apart = columns != padded_ || s.narrow.defined();
    T* out = apart ? scratch.gradient.data : s.grad + row * columns;
    const bool add = b > 0 || (!apart && !(fresh_ && s.grad_fresh));
    if (!s.pairs) {
      kernels_->product(scratch.logits.data, block.lanes, 1, block.rows.data, padded_, out, padded_, n, padded_,
                        block.count, add);
    } else if constexpr (sizeof(T) == 4) {
      set_->pairs->pair_lanes(scratch.logits.data, n * block.lanes, scratch.lanes.data);
      set_->pairs->product(reinterpret_cast<const uint32_t*>(scratch.lanes.data), block.lanes / 2, block.pair_rows.data,
                           padded_, false, block.lanes, out, padded_, n, padded_, block.lanes / 2, add);
    }
    if (!apart || b + 1 < blocks_.size()) return;
    if (s.narrow.defined()) {
      at::Tensor narrow = s.narrow;
      store_rows(out, padded_, n, narrow, row);
      return;
    }
    const bool first = fresh_ && s.grad_fresh;
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < columns; ++j) {
        T& sum = s.grad[(row + i) * columns + j];
        sum = (first ? T(0) : sum) + out[i * padded_ + j];
      }
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
            const auto s = std::find_if(segments_.begin(), segments_.end(),
                                        [&](const Segment<T>& x) { return rows_.target[i] < x.first + x.count; });
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
  std::vector<OnlineState<T>> states_;  // [partition][block]
  std::vector<Buffer<T>> partials_;     // [partition][block] of [lanes][padded]
};

}  // namespace mmpt
