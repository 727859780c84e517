// Generalized pooling of all items, and its gradient: pooling.py. Which rank a node has in each feature is counted by comparing all
// pairs of nodes, a vector of features at a time, which costs a small part of what sorting so few does.
//
// Letters: N nodes of an item, n ≤ N of them real; L lanes.
#include "simd.h"

#include <algorithm>
#include <vector>

struct Pool {  // as in native/__init__.py
  int64_t items, nodes, width, threads;
  const void *x, *mask, *theta;  // [B,N,D], bool [B,N], θ of each rank [B,N]
  void* pooled;                  // [B,D], or for the backward pass its gradient
  void *d_x, *d_theta;           // gradients, zero before
};

namespace {

template <class T>
struct Pooling {
  using V = Vec<T>;
  using Ranks = typename Simd<T>::Mask;
  static constexpr int64_t L = Simd<T>::LANES;
  const Pool& p;

  struct Work {
    std::vector<int64_t> real;  // places of the real nodes
    Scratch<V> x, sorted;       // [n]; sums of x ∂pooled by rank, [n]
    Scratch<Ranks> rank;        // [n]
  };

  // Of nodes j0 to j0 + M − 1, how many of the others are larger; of equal ones the first leads.
  template <int M>
  static void above(const V* x, Ranks* rank, int64_t n, int64_t j0) {
    V own[M];
    Ranks count[M];
    UNROLL(int j = 0; j < M; ++j) own[j] = x[j0 + j], count[j] = Ranks{};
    for (int64_t i = 0; i < j0; ++i)
      UNROLL(int j = 0; j < M; ++j) count[j] -= x[i] >= own[j];  // −1 where true
    for (int i = 0; i < M; ++i)
      UNROLL(int j = 0; j < M; ++j) count[j] -= i < j ? x[j0 + i] >= own[j] : x[j0 + i] > own[j];
    for (int64_t i = j0 + M; i < n; ++i)
      UNROLL(int j = 0; j < M; ++j) count[j] -= x[i] > own[j];
    UNROLL(int j = 0; j < M; ++j) rank[j0 + j] = count[j];
  }

  // The real nodes' values in up to L features from `first` on, and their ranks.
  void rank(Work& work, int64_t item, int64_t first, int64_t count) const {
    const int64_t n = work.real.size();
    V* x = work.x.take(n);
    Ranks* rank = work.rank.take(n);
    const T* from = static_cast<const T*>(p.x) + item * p.nodes * p.width + first;
    for (int64_t i = 0; i < n; ++i) {
      x[i] = V{};
      std::copy_n(from + work.real[i] * p.width, count, reinterpret_cast<T*>(x + i));
    }
    int64_t j = 0;
    for (; j + 8 <= n; j += 8) above<8>(x, rank, n, j);
    for (; j < n; ++j) above<1>(x, rank, n, j);
  }

  void run(bool gradient) const {
    const int64_t N = p.nodes, D = p.width;
#pragma omp parallel num_threads(p.threads)
    {
      Work work;
#pragma omp for schedule(static)
      for (int64_t item = 0; item < p.items; ++item) {
        const auto* mask = static_cast<const bool*>(p.mask) + item * N;
        work.real.clear();
        for (int64_t i = 0; i < N; ++i)
          if (mask[i]) work.real.push_back(i);
        const int64_t n = work.real.size();
        const T* theta = static_cast<const T*>(p.theta) + item * N;
        V* sorted = work.sorted.take(std::max<int64_t>(n, 1));
        std::fill_n(sorted, n, V{});
        for (int64_t first = 0; first < D; first += L) {
          const int64_t count = std::min(L, D - first);
          rank(work, item, first, count);
          const V* x = work.x.take(n);
          const Ranks* rank = work.rank.take(n);
          T* pooled = static_cast<T*>(p.pooled) + item * D + first;
          V g{};
          if (gradient) std::copy_n(pooled, count, reinterpret_cast<T*>(&g));
          V total{};
          for (int64_t i = 0; i < n; ++i) {
            const V weight = lookup(theta, rank[i]);
            if (!gradient) {
              total += weight * x[i];
              continue;
            }
            const V back = weight * g, share = x[i] * g;
            std::copy_n(reinterpret_cast<const T*>(&back), count,
                        static_cast<T*>(p.d_x) + (item * N + work.real[i]) * D + first);
            alignas(BYTES) T shares[L];
            alignas(BYTES) typename Simd<T>::Int ranks[L];
            *reinterpret_cast<V*>(shares) = share, *reinterpret_cast<Ranks*>(ranks) = rank[i];
            for (int64_t l = 0; l < L; ++l) reinterpret_cast<T*>(sorted)[ranks[l] * L + l] += shares[l];
          }
          if (!gradient) std::copy_n(reinterpret_cast<const T*>(&total), count, pooled);
        }
        if (gradient)
          for (int64_t k = 0; k < n; ++k) static_cast<T*>(p.d_theta)[item * N + k] = sum<T>(sorted[k]);
      }
    }
  }
};

}  // namespace

extern "C" void pool(const Pool* problem) { Pooling<SCALAR>{*problem}.run(false); }
extern "C" void pool_backward(const Pool* problem) { Pooling<SCALAR>{*problem}.run(true); }
