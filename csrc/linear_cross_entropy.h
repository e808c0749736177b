// Masked cross-entropy of a head in two segments (base rows, new rows): what is asked, for every device.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <string_view>
#include <tuple>

namespace mmpt {

// Arguments of one call. hidden [N, H]; labels [N]; weight_base [V0, H]; weight_new [T, H]. The softmax of a row runs
// over ids in [lo, hi), hi < 0 meaning the whole vocabulary, or over [row_lo[i], row_hi[i]) where those are given.
struct CrossEntropy {
  const at::Tensor& hidden;
  const at::Tensor& labels;
  const at::Tensor& weight_base;
  const std::optional<at::Tensor>& weight_new;
  int64_t ignore_index;
  int64_t lo, hi;
  const std::optional<at::Tensor>& row_lo;
  const std::optional<at::Tensor>& row_hi;
  const std::optional<at::Tensor>& token_weight;
  double softcap;  // 0: none
  double z_loss;
  double label_smoothing;
  bool want_hidden, want_base, want_new;

  int64_t rows() const { return hidden.size(0); }
  int64_t dimensions() const { return hidden.size(1); }
  int64_t base_rows() const { return weight_base.size(0); }
  int64_t new_rows() const { return weight_new ? weight_new->size(0) : 0; }
  int64_t vocabulary() const { return base_rows() + new_rows(); }
};

// What is summed, and over how many: reduction is "mean", "sum" or "none"; num_items replaces the mean's denominator;
// more than max_valid supervised rows are an error.
struct Reduction {
  std::string_view kind;
  std::optional<double> num_items;
  std::optional<int64_t> max_valid;
  const std::optional<at::Tensor>& group;
  int64_t num_groups;
};

// The dtype of a tensor's gradient: its own, but fp32 for fp16, in which a mean over many rows is 0 before the upstream
// gradient, a gradient scaler's 2^16, can reach it.
inline at::ScalarType gradient_type(at::ScalarType type) { return type == at::kHalf ? at::kFloat : type; }

// loss, nll [N], lse [N], correct [N], group_loss [G], group_count [G], d_hidden, d_base, d_new (each in the
// gradient_type of its tensor, though summed in fp32, or fp64 for fp64 hidden; empty where unwanted).
using ForwardResult = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor,
                                 at::Tensor, at::Tensor>;
using Gradients = std::tuple<at::Tensor, at::Tensor, at::Tensor>;

// Shapes and dtypes that hold on every device; raises ValueError with the offending value.
void check_cross_entropy(const CrossEntropy& call);

ForwardResult cross_entropy_cpu(const CrossEntropy& call, const Reduction& reduction);
// Gradients of sum(upstream * token_weight * term) from the forward's lse; upstream [N].
Gradients cross_entropy_backward_cpu(const CrossEntropy& call, const at::Tensor& lse, const at::Tensor& upstream,
                                     std::optional<int64_t> max_valid);

ForwardResult cross_entropy_cuda(const CrossEntropy& call, const Reduction& reduction);
Gradients cross_entropy_backward_cuda(const CrossEntropy& call, const at::Tensor& lse, const at::Tensor& upstream,
                                      std::optional<int64_t> max_valid);

}  // namespace mmpt
