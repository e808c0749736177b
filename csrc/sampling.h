// One id a row from an allowed range of the vocabulary: what is asked, for every device.
#pragma once

#include <ATen/core/Tensor.h>

#include <cmath>
#include <optional>
#include <string>

namespace mmpt {

// A parameter that is one number for all rows, or a tensor [B].
template <typename T>
struct PerRow {
  T value;
  const std::optional<at::Tensor>& rows;
};

// Ids in [lo, hi) and, where it is not negative, extra are allowed. Noise is keyed by (seed, offset, id). temperature 0
// is the lowest id with the largest logit. Filters in this order: temperature, top_k (0: off), top_p (1: off).
struct Sampling {
  PerRow<int64_t> lo, hi, extra;
  PerRow<double> temperature;
  PerRow<int64_t> top_k;
  PerRow<double> top_p;
  PerRow<int64_t> seed, offset;
};

// ValueError where a parameter has no meaning; whose: "of the call", or of which row.
inline void check_parameters(double temperature, int64_t top_k, double top_p, const std::string& whose) {
  TORCH_CHECK_VALUE(temperature >= 0 && std::isfinite(temperature), "temperature ", temperature, " ", whose,
                    " is not finite and at least 0");
  TORCH_CHECK_VALUE(top_k >= 0, "top_k ", top_k, " ", whose, " is negative");
  TORCH_CHECK_VALUE(top_p > 0 && top_p <= 1, "top_p ", top_p, " ", whose, " is not within (0, 1]");
}

// hidden [B, H], weight_base [V0, H], weight_new [T, H]; softcap 0 is off. ids int64 [B]. max_range bounds hi - lo of
// every row and sizes scratch on CUDA (< 0: the whole vocabulary); the CPU has no need of it.
at::Tensor sample_range_cpu(const at::Tensor& hidden, const at::Tensor& weight_base,
                            const std::optional<at::Tensor>& weight_new, double softcap, const Sampling& how,
                            int64_t max_range);
at::Tensor sample_logits_cpu(const at::Tensor& logits, const Sampling& how, int64_t max_range);

// As above without waiting for the device: a row that is NaN, whose range is empty, out of the vocabulary or wider than
// max_range, or whose temperature, top_k or top_p of a tensor has no meaning, gives -1. tensor_cores: of 16-bit tensors
// that they can take, logits are computed by them, and so rounded otherwise.
at::Tensor sample_range_cuda(const at::Tensor& hidden, const at::Tensor& weight_base,
                             const std::optional<at::Tensor>& weight_new, double softcap, const Sampling& how,
                             int64_t max_range, bool tensor_cores);
at::Tensor sample_logits_cuda(const at::Tensor& logits, const Sampling& how, int64_t max_range);

}  // namespace mmpt
