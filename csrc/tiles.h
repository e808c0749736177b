// The inner loops both CPU operations stand on, one table of function pointers an instruction set.
//
// A tile is n rows of the head (n ids) against a block of at most 64 hidden rows. Logits lie id-major, z[id][lane],
// one lane a hidden row: maxima and sums over ids are then vertical vector operations, and no weight is ever
// transposed. All three products have one form, c[i][j] += a(i, k) * b[k][j], with a broadcast from memory:
//     logits       i = id,          k = hidden dimension, j = lane        (a = the weight, as it lies in memory)
//     d_hidden     i = lane,        k = id,               j = dimension   (b = the weight, as it lies in memory)
//     d_weight     i = id,          k = lane,             j = dimension
// bf16 products take "pairs": two neighbouring k in one 32-bit word, the form of vdpbf16ps and of AMX tiles.
// This header is free of torch, so the files compiled once for every instruction set stay small.
#pragma once

#include <cstdint>

namespace mmpt {

constexpr int kBlock = 64;          // hidden rows (lanes) of a block
constexpr int kLaneStep = 16;       // lanes are padded to a multiple of this, 32 for pairs
constexpr int kDimensionStep = 32;  // hidden dimensions are padded to a multiple of this

// Running softmax of one block; a lane is a hidden row. Maxima start at -inf, everything else at 0.
template <typename T>
struct OnlineState {
  T max[kBlock];
  T sum[kBlock];         // of exp(z - max)
  T logit_sum[kBlock];   // of z, for label smoothing
  T rescale[kBlock];     // out: exp(old max - new max) of the last tile
  int32_t best[kBlock];  // lowest id with the largest logit
};

// Per-lane constants of the gradient dz = (exp(z - lse) * slope - shift) * d(softcap).
template <typename T>
struct GradientLanes {
  T lse[kBlock];
  T slope[kBlock];
  T shift[kBlock];
};

template <typename T>
struct TileKernels {
  // c[i*ldc + j] (= or +=) sum over k of a[i*a_row + k*a_step] * b[k*ldb + j]; n is a multiple of kLaneStep.
  void (*product)(const T* a, int64_t a_row, int64_t a_step, const T* b, int64_t ldb, T* c, int64_t ldc, int64_t m,
                  int64_t n, int64_t k, bool accumulate);
  // z -> cap * tanh(z / cap) in place.
  void (*softcap)(T* z, int64_t count, T cap);
  // z [n][lanes], already softcapped -> exp(z - new max) in place, times the softcap's slope where cap > 0; the sum is
  // that of the bare exponentials. first_id is the id of row 0.
  void (*online)(T* z, int64_t n, int64_t lanes, T cap, int64_t first_id, OnlineState<T>& state);
  // z [n][lanes], already softcapped -> dz in place, without the target's own term.
  void (*gradient)(T* z, int64_t n, int64_t lanes, T cap, const GradientLanes<T>& lanes_of);
  // rows of acc [rows][columns] times factor[row].
  void (*rescale)(T* acc, int64_t rows, int64_t columns, const T* factor);
};

struct PairKernels {
  // As product, with k counted in pairs: a[i*lda + k] are pairs; b is bf16 [2k][ldb] rows that are paired here, or,
  // where b_paired, pairs [k][ldb]. n is a multiple of 32, k of 16.
  void (*product)(const uint32_t* a, int64_t lda, const void* b, int64_t ldb, bool b_paired, int64_t b_rows, float* c,
                  int64_t ldc, int64_t m, int64_t n, int64_t k, bool accumulate);
  // values [n][lanes] -> pairs over ids, lane-major: out[lane*ld + i] = (values[2i][lane], values[2i+1][lane]);
  // zero up to ld pairs.
  void (*pair_ids)(const float* values, int64_t n, int64_t lanes, uint32_t* out, int64_t ld);
  // values [n][lanes] -> bf16 in the same order: pairs over lanes.
  void (*pair_lanes)(const float* values, int64_t count, uint16_t* out);
};

// Dot products of weight rows with hidden rows in one summation order whatever the batch or the instruction set:
// 16 partial sums over k mod 16, folded by halves. out[b*ldo + i] = row i of w . x[b].
struct SamplingKernels {
  void (*dots)(const float* w, int64_t ldw, int64_t n, const float* x, int64_t ldx, int64_t batch, int64_t k,
               float* out, int64_t ldo);
  void (*dots_bf16)(const uint16_t* w, int64_t ldw, int64_t n, const float* x, int64_t ldx, int64_t batch, int64_t k,
                    float* out, int64_t ldo);
  // out[i] = Philox word of id first + i; first is a multiple of 4, count too.
  void (*words)(uint64_t seed, uint64_t offset, uint64_t first, int64_t count, uint32_t* out);
  // Bit i is set where value[i] * inverse_temperature + noise of word[i] may exceed best; count <= 64.
  uint64_t (*contenders)(const float* value, const uint32_t* word, int64_t count, float inverse_temperature,
                         float best);
};

// The screen (screen.h): products of codes, and what they say about logits.
constexpr int kScreenIds = 256;   // ids of one call
constexpr int kScreenDepth = 64;  // dimensions are padded to a multiple of this
constexpr int kCodeZero = 128;    // codes are unsigned: what stands for 0
constexpr int kFine = 254;        // fine steps of a hidden row in a coarse one

// One hidden row in two int8 terms: unit * (kFine * coarse + fine). The shifts are kCodeZero times the terms' sums.
struct Screened {
  int32_t coarse_shift, fine_shift;
  float unit;
  float norm;  // at least the row's length
};

struct QuantisedRow {
  float scale;  // row = scale * (codes - kCodeZero), up to an error of this length
  float error;
  float norm;  // the row's length; both are infinite where the row is not finite
};

struct ScreenKernels {
  bool fast;  // dots are the processor's own products of bytes, without which a screen does not pay
  // out[r*kScreenIds + i] = sum over k of code k of id i times x[r*depth + k]; depth is a multiple of 64, and x has
  // rows up to a multiple of 16, as out has.
  void (*dots)(const uint8_t* codes, const int8_t* x, int64_t rows, int64_t depth, int32_t* out);
  // From the products with a row's two terms: no logit is under least or over most. scale, bound: see screen.h.
  void (*limits)(const int32_t* coarse, const int32_t* fine, const Screened& row, const float* scale,
                 const float* bound, float* least, float* most);
  // Bit i is set where value[i] >= limit; 64 values.
  uint64_t (*above)(const float* value, float limit);
  // depth numbers -> codes.
  QuantisedRow (*quantise)(const float* w, int64_t depth, uint8_t* codes);
};

// What the chosen instruction set offers. pairs is null where bf16 products are done in fp32.
struct InstructionSet {
  const char* name;
  const TileKernels<float>* f32;
  const TileKernels<double>* f64;
  const PairKernels* pairs;
  const SamplingKernels* sampling;
  const ScreenKernels* screen;
};

const InstructionSet& generic_set();
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define MMPT_X86_SETS 1
const InstructionSet& avx2_set();
const InstructionSet& avx512_set();
const InstructionSet& avx512_bf16_set();
const InstructionSet& amx_set();
#endif

// The best set this processor runs, or the one named by select_instruction_set.
const InstructionSet& instruction_set();
// For tests: "generic", "avx2", "avx512", "avx512_bf16", "amx" or "" for the best. False where it cannot run here.
bool select_instruction_set(const char* name);

}  // namespace mmpt
