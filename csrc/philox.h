// Philox4x32-10 as a function of (seed, offset, id): the noise of both devices. Four neighbouring ids share one block,
// whose counter is (id / 4, offset low, offset high, 0) and whose key is the seed; an id takes word id % 4.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define MMPT_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define MMPT_HOST_DEVICE inline
#endif

namespace mmpt {

constexpr int kPhiloxRounds = 10;
constexpr uint64_t kPhiloxMask = 0xFFFFFFFFull;
constexpr uint32_t kPhiloxMulA = 0xD2511F53u, kPhiloxMulB = 0xCD9E8D57u;
constexpr uint32_t kPhiloxWeylA = 0x9E3779B9u, kPhiloxWeylB = 0xBB67AE85u;

// The four words of one block.
MMPT_HOST_DEVICE void philox_block(uint64_t seed, uint64_t offset, uint64_t block, uint32_t* out) {
  uint32_t a = uint32_t(block), b = uint32_t(offset), c = uint32_t(offset >> 32), d = 0;
  uint32_t k0 = uint32_t(seed), k1 = uint32_t(seed >> 32);
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const uint64_t left = uint64_t(a) * kPhiloxMulA, right = uint64_t(c) * kPhiloxMulB;
    const uint32_t next = uint32_t(right >> 32) ^ b ^ k0;
    b = uint32_t(right);
    c = uint32_t(left >> 32) ^ d ^ k1;
    d = uint32_t(left);
    a = next;
    k0 += kPhiloxWeylA, k1 += kPhiloxWeylB;
  }
  out[0] = a, out[1] = b, out[2] = c, out[3] = d;
}

MMPT_HOST_DEVICE uint32_t philox_word(uint64_t seed, uint64_t offset, uint64_t id) {
  uint32_t words[4];
  philox_block(seed, offset, id / 4, words);
  return words[id % 4];
}

}  // namespace mmpt
