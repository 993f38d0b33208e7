// SPDX-License-Identifier: Apache-2.0
#include "base/parallel.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include <sched.h>

#include "base/signal.h"

namespace fluxlora {
namespace {

thread_local bool inside_parallel_for = false;
thread_local int index_of_this_thread = 0;

/// What one job does; piece i of n is body's i-th range.
struct Job {
  int64_t count, grain, grains;
  detail::RangeBody call;
  void* body;
};

int default_thread_count() {
  if (const char* text = std::getenv("FLUXLORA_THREADS")) {
    const int count = std::atoi(text);
    if (count >= 1) return std::min(count, 1024);
  }
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1u, std::thread::hardware_concurrency());
}

/// Waits for `ready` for some ten microseconds: that catches the next operation of a step without a
/// trip through the kernel. On a busy machine whoever sleeps after that is woken first.
template <typename Ready>
void spin(Ready&& ready) {
  for (int i = 0; i < 50; ++i) {
    for (int k = 0; k < 16; ++k) {
      if (ready()) return;
#if defined(__x86_64__)
      __builtin_ia32_pause();
#endif
    }
    if (i >= 25) std::this_thread::yield();
  }
}

/// Worker i of n runs piece i of each job; the calling thread is worker 0.
class Pool {
 public:
  explicit Pool(int threads) : threads_(threads) {
    for (int i = 1; i < threads_; ++i) workers_.emplace_back([this, i] { serve(i); });
  }

  ~Pool() {
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
      ++generation_;
    }
    wake_.notify_all();
    for (auto& worker : workers_) worker.join();
  }

  int threads() const { return threads_; }

  void run(const Job& job) {
    std::lock_guard one_job_at_a_time(job_mutex_);
    error_ = nullptr;
    job_ = &job;
    pending_.store(threads_ - 1, std::memory_order_relaxed);
    {
      std::lock_guard lock(mutex_);
      generation_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    call(0);
    spin([&] { return pending_.load(std::memory_order_acquire) == 0; });
    for (int left = pending_.load(); left != 0; left = pending_.load()) pending_.wait(left);
    if (error_) std::rethrow_exception(error_);
  }

 private:
  void call(int index) {
    inside_parallel_for = true;
    try {
      const Job& job = *job_;
      const int64_t first = job.grains * index / threads_ * job.grain;
      const int64_t last = std::min(job.count, job.grains * (index + 1) / threads_ * job.grain);
      if (first < last) job.call(job.body, first, last);
    } catch (...) {
      std::lock_guard lock(mutex_);
      if (!error_) error_ = std::current_exception();
    }
    inside_parallel_for = false;
  }

  void serve(int index) {
    leave_signals_to_main_thread();
    uint64_t seen = 0;
    index_of_this_thread = index;
    while (true) {
      spin([&] { return generation_.load(std::memory_order_acquire) != seen; });
      if (generation_.load(std::memory_order_acquire) == seen) {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [&] { return generation_.load() != seen; });
      }
      seen = generation_.load();
      if (stopping_) return;
      call(index);
      if (pending_.fetch_sub(1, std::memory_order_acq_rel) == 1) pending_.notify_one();
    }
  }

  const int threads_;
  std::vector<std::thread> workers_;
  std::mutex mutex_, job_mutex_;
  std::condition_variable wake_;
  std::atomic<uint64_t> generation_{0};
  std::atomic<int> pending_{0};
  std::atomic<bool> stopping_{false};
  const Job* job_ = nullptr;
  std::exception_ptr error_;
};

std::unique_ptr<Pool>& pool() {
  static std::unique_ptr<Pool> instance = std::make_unique<Pool>(default_thread_count());
  return instance;
}

}  // namespace

int thread_count() {
  return pool()->threads();
}

void set_thread_count(int count) {
  if (count != thread_count()) pool() = std::make_unique<Pool>(std::max(1, count));
}

int thread_index() {
  return index_of_this_thread;
}

void detail::parallel_ranges(int64_t count, int64_t grain, RangeBody call, void* body) {
  if (count <= 0) return;
  grain = std::max<int64_t>(1, grain);
  const int64_t grains = (count + grain - 1) / grain;
  if (inside_parallel_for || grains == 1 || thread_count() == 1) return call(body, 0, count);
  pool()->run({count, grain, grains, call, body});
}

}  // namespace fluxlora
