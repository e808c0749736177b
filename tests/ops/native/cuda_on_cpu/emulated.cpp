// The scheduler of cuda_runtime_api.h: fibers that hand over to the next at every barrier.
#include <ucontext.h>

#include <barrier>
#include <memory>
#include <thread>
#include <vector>

#include "cuda_runtime_api.h"

thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulated {
namespace {

constexpr size_t kStack = 64 << 10;

struct Barrier {
  unsigned waiting = 0, generation = 0;
};

struct Fiber {
  ucontext_t context;
  std::unique_ptr<unsigned char[]> stack;
  bool done = false;
};

struct Block {
  std::vector<Fiber> fibers;
  std::vector<Barrier> warps;
  std::vector<unsigned> alive_in_warp;
  Barrier all;
  unsigned alive = 0, current = 0;
  std::vector<uint64_t> slots;
  std::vector<Words> words;
  std::vector<unsigned char> shared;
  const std::function<void()>* body = nullptr;
  ucontext_t scheduler;
};

// Blocks that run together. Shared memory is thread_local and lies, in every thread of the system, equally far from
// `marker`: that is how one block finds a word of another.
struct Cluster {
  explicit Cluster(unsigned size) : markers(size), all(size) {}
  std::vector<unsigned char*> markers;
  std::barrier<> all;
};

thread_local unsigned char marker;
thread_local Block* running = nullptr;
thread_local Cluster* together = nullptr;
thread_local unsigned own_rank = 0;

void give_way() { swapcontext(&running->fibers[running->current].context, &running->scheduler); }

void wait_at(Barrier& barrier, const unsigned& expected) {
  const unsigned generation = barrier.generation;
  ++barrier.waiting;
  while (barrier.generation == generation) {
    if (barrier.waiting >= expected) {
      barrier.waiting = 0;
      ++barrier.generation;
      break;
    }
    give_way();
  }
}

void run_fiber() {
  (*running->body)();
  Fiber& fiber = running->fibers[running->current];
  fiber.done = true;
  --running->alive;
  --running->alive_in_warp[running->current / 32];
  give_way();
}

}  // namespace

unsigned char* dynamic_shared() { return running->shared.data(); }
void block_barrier() { wait_at(running->all, running->alive); }
void warp_barrier() { wait_at(running->warps[running->current / 32], running->alive_in_warp[running->current / 32]); }

uint64_t exchange(uint64_t value, int lane) {
  running->slots[running->current] = value;
  warp_barrier();
  const uint64_t other = running->slots[running->current / 32 * 32 + lane];
  warp_barrier();
  return other;
}

// What the lanes of the warp gave, through f(lane, value).
template <typename F>
void of_all_lanes(uint64_t value, F f) {
  running->slots[running->current] = value;
  warp_barrier();
  for (int lane = 0; lane < 32; ++lane) f(lane, running->slots[running->current / 32 * 32 + lane]);
  warp_barrier();
}

unsigned ballot(bool vote) {
  unsigned out = 0;
  of_all_lanes(vote, [&](int lane, uint64_t other) { out |= unsigned(other) << lane; });
  return out;
}

unsigned match_any(uint32_t value) {
  unsigned out = 0;
  of_all_lanes(value, [&](int lane, uint64_t other) { out |= unsigned(other == value) << lane; });
  return out;
}

uint32_t reduce_add(uint32_t value) {
  uint32_t out = 0;
  of_all_lanes(value, [&](int, uint64_t other) { out += uint32_t(other); });
  return out;
}

const Words* share(const Words& own) {
  running->words[running->current] = own;
  warp_barrier();
  return &running->words[running->current / 32 * 32];
}

unsigned cluster_rank() { return own_rank; }
unsigned cluster_size() { return unsigned(together->markers.size()); }
void cluster_sync() {
  block_barrier();
  if (threadIdx.x == 0) together->all.arrive_and_wait();
  block_barrier();
}
uint32_t cluster_load(const uint32_t* word, unsigned rank) {
  const ptrdiff_t place = reinterpret_cast<const unsigned char*>(word) - &marker;
  return *reinterpret_cast<const uint32_t*>(together->markers[rank] + place);
}

namespace {

// The blocks rank, rank + size, .. of the grid, one after the other, on this thread of the system.
void run_blocks(dim3 grid, dim3 block, size_t shared, const std::function<void()>& body, Cluster& cluster, unsigned rank) {
  together = &cluster, own_rank = rank;
  cluster.markers[rank] = &marker;
  cluster.all.arrive_and_wait();
  Block state;
  running = &state;
  state.body = &body;
  state.fibers.resize(block.x);
  for (Fiber& fiber : state.fibers) fiber.stack.reset(new unsigned char[kStack]);
  for (unsigned y = 0; y < grid.y; ++y)
    for (unsigned x = rank; x < grid.x; x += unsigned(cluster.markers.size())) {
      blockIdx = dim3(x, y, 0), blockDim = block, gridDim = grid;
      state.alive = block.x;
      state.warps.assign((block.x + 31) / 32, {});
      state.alive_in_warp.assign(state.warps.size(), 32);
      state.all = {};
      state.slots.assign(block.x, 0);
      state.words.assign(block.x, {});
      state.shared.assign(shared, 0xff);  // what a kernel forgets to write is not zero
      for (Fiber& fiber : state.fibers) {
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.get();
        fiber.context.uc_stack.ss_size = kStack;
        fiber.context.uc_link = nullptr;
        fiber.done = false;
        makecontext(&fiber.context, run_fiber, 0);
      }
      cluster.all.arrive_and_wait();  // the next cluster starts when the last one is through
      while (state.alive)
        for (state.current = 0; state.current < block.x; ++state.current)
          if (!state.fibers[state.current].done) {
            threadIdx = dim3(state.current, 0, 0);
            swapcontext(&state.scheduler, &state.fibers[state.current].context);
          }
    }
  running = nullptr;
}

}  // namespace

void launch(dim3 grid, dim3 block, size_t shared, const std::function<void()>& body, unsigned size) {
  const bool empty = !grid.x || !grid.y || !grid.z || !block.x;
  if (empty || grid.x > 0x7fffffffu || grid.y > 65535 || block.x > 1024 || block.x % 32 || grid.x % size)
    return fail("invalid configuration argument");
  Cluster cluster(size);
  std::vector<std::thread> others;
  for (unsigned rank = 1; rank < size; ++rank)
    others.emplace_back([&, rank] { run_blocks(grid, block, shared, body, cluster, rank); });
  run_blocks(grid, block, shared, body, cluster, 0);
  for (std::thread& one : others) one.join();
}

}  // namespace emulated
