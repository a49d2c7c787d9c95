/* A float32 matrix product that is fast for one to twelve rows, with the arguments of cblas_sgemm.
 *
 * BLAS libraries copy the matrix into panels, which costs more than the product with so few rows:
 * generating text is 2 to 6 times slower than reading the weights. Here the rows are multiplied by each
 * row of a transposed matrix while that is in the cache. One row and a matrix that is not transposed
 * are the library's product of a matrix and a vector. All other products go to the library.
 */

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

enum { ROW_MAJOR = 101, NO_TRANSPOSE = 111, TRANSPOSE = 112, MOST_ROWS = 12 };
enum { CHUNKS = 16, MOST_THREADS = 64, SPINS = 1000, LEAST_NUMBERS = 1 << 17 };

typedef void (*sgemm)(int, int, int, int, int, int, float, const float *, int, const float *, int,
                      float, float *, int);
typedef void (*sgemv)(int, int, int, int, float, const float *, int, const float *, int, float,
                      float *, int);

typedef int (*counter)(void);

static sgemm matrix_product;
static sgemv vector_product;
static counter library_threads; /* NULL: one */

void few_rows_setup(sgemm gemm, sgemv gemv, counter threads)
{
    matrix_product = gemm;
    vector_product = gemv;
    library_threads = threads;
}

/* y = alpha op(A) x + beta y; with beta 0, y may hold anything, NaN too. */
static void multiply(int trans, int rows, int columns, float alpha, const float *a, int lda,
                     const float *x, int incx, float beta, float *y, int incy)
{
    int length = trans == NO_TRANSPOSE ? rows : columns;
    if (beta == 0) {
        for (int i = 0; i < length; i++)
            y[(long)i * incy] = 0;
        beta = 1;
    }
    vector_product(ROW_MAJOR, trans, rows, columns, alpha, a, lda, x, incx, beta, y, incy);
}

enum { WIDTH = 8 }; /* compilers split what is wider than the processor's vectors */
typedef float floats __attribute__((vector_size(4 * WIDTH)));
typedef floats unaligned __attribute__((aligned(4), may_alias));

typedef struct {
    int m, n, k, lda, ldb, ldc;
    float alpha, beta;
    const float *a, *b;
    float *c;
} product;

/* Multiply `rows` rows of a, from `first` on, by `streams` rows of b, which are `far` apart: a core
 * waits for memory less with more reads under way. One row of a reads 1.8 times more a second this
 * way than by OpenBLAS's sgemv. Both counts are constants at each call, so that the compiler keeps
 * the sums in registers; more of them would not fit. */
static inline __attribute__((always_inline)) void dots(product p, int rows, int streams, int first,
                                                       int j, int far)
{
    const float *a = p.a + (long)first * p.lda, *b = p.b + (long)j * p.ldb;
    float *c = p.c + (long)first * p.ldc + j;
    floats sums[4][4] = {0};
    int i = 0;
    for (; i + WIDTH <= p.k; i += WIDTH) {
        floats x[4];
        for (int row = 0; row < rows; row++)
            x[row] = *(const unaligned *)(a + (long)row * p.lda + i);
        for (int s = 0; s < streams; s++) {
            const float *place = b + (long)s * far * p.ldb + i;
            floats weight = *(const unaligned *)place;
            if (first == 4) /* the next rows of b, while these are in the cache */
                __builtin_prefetch(place + p.ldb);
            for (int row = 0; row < rows; row++)
                sums[s][row] += weight * x[row];
        }
    }
    for (int s = 0; s < streams; s++)
        for (int row = 0; row < rows; row++) {
            float *out = c + (long)row * p.ldc + s * far, sum = 0;
            for (int lane = 0; lane < WIDTH; lane++)
                sum += sums[s][row][lane];
            for (int rest = i; rest < p.k; rest++)
                sum += b[(long)s * far * p.ldb + rest] * a[(long)row * p.lda + rest];
            *out = p.alpha * sum + (p.beta == 0 ? 0 : p.beta * *out);
        }
}

/* Multiply all rows of a, four at a time, while these rows of b are in the cache. */
static inline __attribute__((always_inline)) void all_dots(product p, int streams, int j, int far)
{
    int row = 0;
    for (; row + 4 <= p.m; row += 4)
        dots(p, 4, streams, row, j, far);
    switch (p.m - row) {
    case 1: dots(p, 1, streams, row, j, far); return;
    case 2: dots(p, 2, streams, row, j, far); return;
    case 3: dots(p, 3, streams, row, j, far); return;
    }
}

/* Compute columns [begin, end) of c. */
static void columns(product p, int begin, int end)
{
    int streams = p.m < 3 ? 4 : 2, far = (end - begin) / streams, rest = begin + streams * far;
    for (int j = begin; j < begin + far; j++)
        if (p.m < 3)
            all_dots(p, 4, j, far);
        else
            all_dots(p, 2, j, far);
    for (int j = rest; j < end; j++)
        all_dots(p, 1, j, 0);
}

/* Threads that share a product: each takes the next of CHUNKS until none is left, so that nobody
 * waits for a thread that the system does not run. */
static product shared;
static atomic_int next_chunk = CHUNKS, done, rounds, wanted;
static long workers;
static pthread_mutex_t owner = PTHREAD_MUTEX_INITIALIZER, sleeping = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;

static void take_chunks(void)
{
    for (int i; (i = atomic_fetch_add(&next_chunk, 1)) < CHUNKS; atomic_fetch_add(&done, 1))
        columns(shared, (long)shared.n * i / CHUNKS, (long)shared.n * (i + 1) / CHUNKS);
}

static void *work(void *index)
{
    for (int seen = 0;;) {
        for (int spins = 0; atomic_load(&rounds) == seen && spins < SPINS; spins++)
            sched_yield();
        pthread_mutex_lock(&sleeping);
        while (atomic_load(&rounds) == seen)
            pthread_cond_wait(&wake, &sleeping);
        seen = atomic_load(&rounds);
        pthread_mutex_unlock(&sleeping);
        if ((long)index < atomic_load(&wanted))
            take_chunks();
    }
    return 0;
}

/* A forked process has no workers, and locks in any state. */
static void forget_workers(void)
{
    workers = 0;
    pthread_mutex_init(&owner, 0), pthread_mutex_init(&sleeping, 0), pthread_cond_init(&wake, 0);
}

static void add_workers(void)
{
    static int registered;
    if (!registered)
        registered = !pthread_atfork(0, 0, forget_workers);
    for (pthread_t thread; workers < atomic_load(&wanted) && workers < MOST_THREADS; workers++) {
        if (pthread_create(&thread, 0, work, (void *)workers))
            return;
        pthread_detach(thread);
    }
}

static void multiply_rows(product p)
{
    int threads = library_threads ? library_threads() : 1;
    /* Another stream may have the workers. */
    if (threads < 2 || (long)p.n * p.k < LEAST_NUMBERS || pthread_mutex_trylock(&owner)) {
        columns(p, 0, p.n);
        return;
    }
    atomic_store(&wanted, threads - 1);
    add_workers();
    shared = p;
    atomic_store(&done, 0);
    atomic_store(&next_chunk, 0);
    pthread_mutex_lock(&sleeping);
    atomic_fetch_add(&rounds, 1);
    pthread_cond_broadcast(&wake);
    pthread_mutex_unlock(&sleeping);
    take_chunks();
    while (atomic_load(&done) < CHUNKS)
        sched_yield();
    pthread_mutex_unlock(&owner);
}

void few_rows_sgemm(int order, int ta, int tb, int m, int n, int k, float alpha, const float *a,
                    int lda, const float *b, int ldb, float beta, float *c, int ldc)
{
    if (order == ROW_MAJOR && k >= 16 && m <= MOST_ROWS && ta == NO_TRANSPOSE && tb == TRANSPOSE) {
        multiply_rows((product){m, n, k, lda, ldb, ldc, alpha, beta, a, b, c});
        return;
    }
    if (order == ROW_MAJOR && k > 0 && m == 1 && n > 1) {
        int step = ta == NO_TRANSPOSE ? 1 : lda;
        if (tb == NO_TRANSPOSE)
            multiply(TRANSPOSE, k, n, alpha, b, ldb, a, step, beta, c, 1);
        else
            multiply(NO_TRANSPOSE, n, k, alpha, b, ldb, a, step, beta, c, 1);
        return;
    }
    matrix_product(order, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}
