// A screen: the head in int8, which rules out almost every id of a draw, so that only few are multiplied in full.
//
// Row w of the head is kept as v = scale * q, q in [-127, 127], with one bound: no logit w.h is further than bound *
// |h| from its product of codes. By Cauchy-Schwarz |w.h - v.g| <= |w - v| |h| + |v| |h - g|; the hidden row h is cut
// into two int8 terms, g, so |h - g| <= |h| sqrt(H) / 64516, and fp32 adds (H / 16 + 64) 2^-24 |w| |h| at most: the
// full product adds up 16 sums side by side, then folds them and adds what is left of H, 20 roundings more; the rest is
// for the codes' scale and for what is made of their sums. A draw looks at all codes once, keeps the ids whose most
// reaches the best least so far, and computes theirs by the same dot products as a draw without a screen: the ids are
// equal to the bit. A row that is not finite, or huge, has an infinite bound, and is always computed; a hidden row that
// is not finite, zero, tiny or huge is drawn in full, and so is one for which the screen rules out too little.
#pragma once

#include <tuple>

#include "sampling.h"

namespace mmpt {

// ids: V up to a multiple of kScreenIds; depth: H up to one of kScreenDepth. codes uint8 [ids, depth], those of 16 ids
// interleaved (screen_impl.h); scale and bound fp32 [ids].
struct ScreenTensors {
  const at::Tensor &codes, &scale, &bound;
};
using NewScreen = std::tuple<at::Tensor, at::Tensor, at::Tensor>;

NewScreen screen_cpu(const at::Tensor& weight_base, const std::optional<at::Tensor>& weight_new);

// sample_range_cpu without a softcap, by a screen of the same head.
at::Tensor sample_screened_cpu(const at::Tensor& hidden, const at::Tensor& weight_base,
                               const std::optional<at::Tensor>& weight_new, const ScreenTensors& screen,
                               const Sampling& how, int64_t max_range);

}  // namespace mmpt
