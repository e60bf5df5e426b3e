// hnswlib_peer.cc - the only C++ of the project: hnswlib is a library of headers.
#include "bench/support/hnswlib_peer.h"

#include <atomic>
#include <cmath>
#include <exception>
#include <memory>
#include <thread>
#include <vector>

#include <hnswlib/hnswlib.h>

namespace
{

// Sixteen sums side by side, so that the compiler makes one wide register of them.
float manhattan(const void *a, const void *b, const void *dimension)
{
    const float *x = static_cast<const float *>(a), *y = static_cast<const float *>(b);
    const size_t count = *static_cast<const size_t *>(dimension);
    float sums[16] = {};
    size_t i = 0;
    for (; i + 16 <= count; i += 16)
        for (size_t j = 0; j < 16; j++)
            sums[j] += std::fabs(x[i + j] - y[i + j]);
    float sum = 0;
    for (; i < count; i++)
        sum += std::fabs(x[i] - y[i]);
    for (float s : sums)
        sum += s;
    return sum;
}

class manhattan_space : public hnswlib::SpaceInterface<float>
{
  public:
    explicit manhattan_space(size_t dimension) : dimension_(dimension)
    {
    }
    size_t get_data_size() override
    {
        return dimension_ * sizeof(float);
    }
    hnswlib::DISTFUNC<float> get_dist_func() override
    {
        return manhattan;
    }
    void *get_dist_func_param() override
    {
        return &dimension_;
    }

  private:
    size_t dimension_;
};

std::unique_ptr<hnswlib::SpaceInterface<float>> make_space(hnswlib_space space, size_t dimension)
{
    if (space == HNSWLIB_IP) return std::make_unique<hnswlib::InnerProductSpace>(dimension);
    if (space == HNSWLIB_L1) return std::make_unique<manhattan_space>(dimension);
    return std::make_unique<hnswlib::L2Space>(dimension);
}

} // namespace

struct hnswlib_peer {
    std::unique_ptr<hnswlib::SpaceInterface<float>> space;
    std::unique_ptr<hnswlib::HierarchicalNSW<float>> index;
};

hnswlib_peer *hnswlib_peer_new(hnswlib_space space, size_t dimension, size_t rows, size_t m,
                               size_t ef_construction)
try {
    auto peer = std::make_unique<hnswlib_peer>();
    peer->space = make_space(space, dimension);
    peer->index = std::make_unique<hnswlib::HierarchicalNSW<float>>(peer->space.get(), rows, m,
                                                                    ef_construction);
    return peer.release();
} catch (const std::exception &) {
    return nullptr;
}

void hnswlib_peer_free(hnswlib_peer *p)
{
    delete p;
}

int hnswlib_peer_add(hnswlib_peer *p, const float *rows, size_t first, size_t count,
                     size_t dimension, int threads)
{
    std::atomic<size_t> next{0};
    std::atomic<bool> failed{false};
    auto work = [&] {
        try {
            for (size_t i; (i = next++) < count && !failed;)
                p->index->addPoint(rows + i * dimension, first + i);
        } catch (const std::exception &) {
            failed = true;
        }
    };
    std::vector<std::thread> helpers;
    for (int i = 1; i < threads; i++)
        helpers.emplace_back(work);
    work();
    for (auto &helper : helpers)
        helper.join();
    return !failed;
}

int hnswlib_peer_delete(hnswlib_peer *p, size_t label)
try {
    p->index->markDelete(label);
    return 1;
} catch (const std::exception &) {
    return 0;
}

void hnswlib_peer_set_ef(hnswlib_peer *p, size_t ef)
{
    p->index->setEf(ef);
}

size_t hnswlib_peer_search(const hnswlib_peer *p, const float *query, size_t k, uint32_t *labels)
{
    auto found = p->index->searchKnn(query, k);
    const size_t count = found.size();
    for (size_t i = count; i-- > 0; found.pop())
        labels[i] = static_cast<uint32_t>(found.top().second);
    return count;
}

size_t hnswlib_peer_row_bytes(const hnswlib_peer *p)
{
    return p->index->size_data_per_element_;
}
