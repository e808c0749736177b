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

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "cross_entropy_pass.h"

namespace mmpt {
namespace {

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

void check_count(int64_t count, std::optional<int64_t> max_valid) {
  TORCH_CHECK_VALUE(!max_valid || count <= *max_valid, count, " supervised rows, max_valid is ", max_valid.value_or(0));
}

// Rows of a chunk: as many blocks as the partial sums of d_hidden leave room for.
int64_t chunk_rows(const CrossEntropy& call, int64_t element) {
  const int64_t block_bytes = kMaxPartitions * kBlock * round_up(call.dimensions(), kDimensionStep) * element;
  return std::clamp(kPartialBytes / block_bytes, int64_t(1), kMaxBlocks) * kBlock;
}

template <typename T>
struct Head {
  Head(const CrossEntropy& call, const Supervised& rows)
      : wide(call.hidden.options().dtype(sizeof(T) == 8 ? at::kDouble : at::kFloat)) {
    add(call, rows, call.weight_base, 0, call.want_base);
    if (call.weight_new) add(call, rows, *call.weight_new, call.base_rows(), call.want_new);
  }

  void add(const CrossEntropy& call, const Supervised& rows, const at::Tensor& weight, int64_t first, bool trains) {
    Segment<T> s{&weight, first, weight.size(0), false, false, nullptr, false, {}};
    s.pairs = sizeof(T) == 4 && call.hidden.scalar_type() == at::kBFloat16 && weight.scalar_type() == at::kBFloat16 &&
              instruction_set().pairs;
    const bool same = s.pairs || weight.scalar_type() == wide.dtype().toScalarType();
    s.in_place = same && weight.size(1) % kDimensionStep == 0 && weight.stride(1) == 1 && weight.stride(0) % 2 == 0;
    grads.emplace_back();
    if (trains) {
      s.grad_fresh = rows.spans.size() == 1 && rows.spans[0].lo <= first && first + s.count <= rows.spans[0].hi;
      const bool once = s.grad_fresh && int64_t(rows.row.size()) <= chunk_rows(call, sizeof(T));
      const at::ScalarType type = gradient_type(weight.scalar_type());
      const bool narrow = once && type != wide.dtype().toScalarType();
      at::Tensor grad = at::empty(weight.sizes(), narrow ? wide.dtype(type) : wide);
      if (!s.grad_fresh) grad.zero_();
      if (narrow) s.narrow = grad;
      else s.grad = grad.mutable_data_ptr<T>();
      grads.back() = grad;
    }
    if (s.count) segments.push_back(s);
  }

  // The gradient of a matrix, in its gradient_type; empty where it does not train.
  at::Tensor gradient(size_t matrix, const at::Tensor& weight) const {
    const bool trains = matrix < grads.size() && grads[matrix].defined();
    const at::ScalarType type = gradient_type(weight.scalar_type());
    return trains ? grads[matrix].to(type) : at::empty({0}, wide.dtype(type));
  }
  Gradients gradients(const CrossEntropy& call, const at::Tensor& d_hidden) const {
    return {d_hidden, gradient(0, call.weight_base),
            gradient(1, call.weight_new ? *call.weight_new : call.weight_base)};
  }

  at::TensorOptions wide;
  std::vector<Segment<T>> segments;
  std::vector<at::Tensor> grads;  // of each matrix, in wide or, where one chunk does it all, in the weight's dtype
};

template <typename F>
void each_chunk(const CrossEntropy& call, const Supervised& rows, int64_t element, F&& use) {
  const int64_t step = chunk_rows(call, element);
  bool fresh = true;
  for (const Span& span : rows.spans)
    for (int64_t begin = span.begin; begin < span.end; begin += step, fresh = false)
      use(span, begin, std::min(span.end, begin + step), fresh);
}

at::Tensor hidden_gradient(const CrossEntropy& call) {
  const auto options = call.hidden.options().dtype(gradient_type(call.hidden.scalar_type()));
  return call.want_hidden ? at::zeros(call.hidden.sizes(), options.memory_format(at::MemoryFormat::Contiguous))
                          : at::empty({0}, options);
}

// What a forward pass knows of each supervised row.
struct RowValues {
  explicit RowValues(size_t count) : lse(count), target_logit(count), mean_logit(count), best(count) {}
  std::vector<double> lse, target_logit, mean_logit;
  std::vector<int32_t> best;
};

// The outputs of all rows. Sums run in fp64 in the order of the batch, whatever the ranges were.
template <typename T>
struct Outputs {
  Outputs(const CrossEntropy& call, const Reduction& reduction) : none(reduction.kind == "none") {
    const auto options = call.hidden.options().dtype(sizeof(T) == 8 ? at::kDouble : at::kFloat);
    loss = at::zeros(none ? std::vector<int64_t>{call.rows()} : std::vector<int64_t>{}, options);
    nll = at::zeros({call.rows()}, options), lse = at::zeros({call.rows()}, options);
    correct = at::zeros({call.rows()}, options.dtype(at::kBool));
    group_loss = at::zeros({reduction.num_groups}, options.dtype(at::kDouble));
    group_count = at::zeros({reduction.num_groups}, options.dtype(at::kLong));
    if (reduction.group) group = reduction.group->to(at::kLong).contiguous();
  }

  void fill(const CrossEntropy& call, const Supervised& rows, const RowValues& values) {
    std::vector<int64_t> order(rows.row.size());
    std::iota(order.begin(), order.end(), 0);
    std::sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return rows.row[a] < rows.row[b]; });
    double total = 0;
    for (const int64_t i : order) {
      const double lse_i = values.lse[i], value = lse_i - values.target_logit[i], eps = call.label_smoothing;
      const double smooth = eps > 0 ? eps * (lse_i - values.mean_logit[i]) : 0;
      const double term = ((1 - eps) * value + smooth + call.z_loss * lse_i * lse_i) * rows.weight[i];
      const int64_t row = rows.row[i];
      nll.mutable_data_ptr<T>()[row] = T(value);
      lse.mutable_data_ptr<T>()[row] = T(lse_i);
      correct.mutable_data_ptr<bool>()[row] = values.best[i] == rows.target[i];
      if (none) loss.mutable_data_ptr<T>()[row] = T(term);
      if (group.defined()) add_to_group(row, value);
      total += term;
    }
    if (!none) *loss.mutable_data_ptr<T>() = T(total);
  }

  void add_to_group(int64_t row, double value) {
    const int64_t g = group.const_data_ptr<int64_t>()[row], groups = group_loss.numel();
    TORCH_CHECK_VALUE(0 <= g && g < groups, "group id ", g, " of row ", row, ", num_groups is ", groups);
    group_loss.mutable_data_ptr<double>()[g] += value;
    group_count.mutable_data_ptr<int64_t>()[g] += 1;
  }

  bool none;
  at::Tensor loss, nll, lse, correct, group_loss, group_count, group;
};

template <typename T>
ForwardResult forward(const CrossEntropy& call, const Reduction& reduction) {
  Supervised rows = supervised_rows(call);
  const int64_t count = int64_t(rows.row.size());
  check_count(count, reduction.max_valid);
  if (reduction.kind == "mean" && count) {
    const double total = std::accumulate(rows.weight.begin(), rows.weight.end(), 0.0);
    for (double& weight : rows.weight) weight /= reduction.num_items.value_or(total);
  }
  const Head<T> head(call, rows);
  at::Tensor d_hidden = hidden_gradient(call);
  RowValues values(count);
  const bool online = call.want_hidden && call.label_smoothing == 0, later = call.want_hidden && !online;
  each_chunk(call, rows, sizeof(T), [&](const Span& span, int64_t begin, int64_t end, bool fresh) {
    Pass<T> pass(call, rows, head.segments, span, begin, end, fresh);
    pass.loss(online, values.lse.data(), values.target_logit.data(), values.mean_logit.data(), values.best.data());
    if (online) pass.write_hidden_of_loss(values.lse.data(), values.target_logit.data(), d_hidden);
    if (later || call.want_base || call.want_new) pass.gradient(values.lse.data(), later ? &d_hidden : nullptr);
  });
  Outputs<T> out(call, reduction);
  out.fill(call, rows, values);
  const auto [d_h, d_base, d_new] = head.gradients(call, d_hidden);
  return {out.loss, out.nll, out.lse, out.correct, out.group_loss, out.group_count, d_h, d_base, d_new};
}

template <typename T>
Gradients backward(const CrossEntropy& call, const at::Tensor& lse_rows, const at::Tensor& upstream_rows,
                   std::optional<int64_t> max_valid) {
  Supervised rows = supervised_rows(call);
  check_count(int64_t(rows.row.size()), max_valid);
  const Head<T> head(call, rows);
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
  return head.gradients(call, d_hidden);
}

}  // namespace

ForwardResult cross_entropy_cpu(const CrossEntropy& call, const Reduction& reduction) {
  return call.hidden.scalar_type() == at::kDouble ? forward<double>(call, reduction) : forward<float>(call, reduction);
}

Gradients cross_entropy_backward_cpu(const CrossEntropy& call, const at::Tensor& lse, const at::Tensor& upstream,
                                     std::optional<int64_t> max_valid) {
  return call.hidden.scalar_type() == at::kDouble ? backward<double>(call, lse, upstream, max_valid)
                                                  : backward<float>(call, lse, upstream, max_valid);
}

}  // namespace mmpt
