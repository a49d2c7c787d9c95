/* A float32 matrix product that is fast for few rows, with the arguments of cblas_sgemm.
 *
 * BLAS libraries copy the matrix into panels, which costs more than the product with so few rows:
 * generating text is 2 to 6 times slower than reading the weights. Here the rows are multiplied by each
 * row of a transposed matrix while that is in the cache: up to 40 rows with vectors of 512 bits, which
 * have registers for 24 sums at a time, and 12 without. One row and a matrix that is not transposed
 * are the library's product of a matrix and a vector. All other products go to the library.
 */

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

enum { ROW_MAJOR = 101, NO_TRANSPOSE = 111, TRANSPOSE = 112 };
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

#ifdef __AVX512F__
enum { WIDTH = 16, COLUMNS = 6, MOST_ROWS = 40 };
#else /* compilers split what is wider than the processor's vectors */
enum { WIDTH = 8, COLUMNS = 2, MOST_ROWS = 12 };
#endif
enum { ROWS = 4, DEPTH = 1024, LEAST_TILED = 13 };
typedef float floats __attribute__((vector_size(4 * WIDTH)));
typedef floats unaligned __attribute__((aligned(4), may_alias));
typedef float half __attribute__((vector_size(2 * WIDTH)));
typedef float quarter __attribute__((vector_size(WIDTH)));

typedef struct {
    int m, n, k, lda, ldb, ldc;
    float alpha, beta;
    const float *a, *b;
    float *c;
    const floats *packed; /* a, or NULL; see `pack` */
} product;

static inline __attribute__((always_inline)) float total(floats sums)
{
    union { floats all; half parts[2]; } whole = {sums};
    union { half all; quarter parts[2]; } folded = {whole.parts[0] + whole.parts[1]};
    quarter left = folded.parts[0] + folded.parts[1];
    float sum = 0;
    for (int lane = 0; lane < WIDTH / 4; lane++)
        sum += left[lane];
    return sum;
}

/* Multiply `rows` rows of a, from `first` on, by `streams` rows of b, which are `far` apart, from
 * `begin` to `end`: a core waits for memory less with more reads under way. One row of a reads 1.8
 * times more a second this way than by OpenBLAS's sgemv. Both counts are constants at each call, so
 * that the compiler keeps the sums in registers; more of them would not fit. `soon` and what is `gap`
 * behind it are rows of b that will be read next, NULL if others fetch them. */
static inline __attribute__((always_inline)) void dots(product p, int rows, int streams, int first,
                                                       int j, int far, int begin, int end,
                                                       const float *soon, long gap)
{
    const float *a = p.a + (long)first * p.lda, *b = p.b + (long)j * p.ldb, *x = a + begin;
    long stride = p.lda, step = WIDTH;
    if (p.packed) {
        x = (const float *)(p.packed + (long)first * (p.k / WIDTH) + (long)rows * (begin / WIDTH));
        stride = WIDTH, step = rows * WIDTH;
    }
    float *c = p.c + (long)first * p.ldc + j, beta = begin ? 1 : p.beta;
    floats sums[COLUMNS > 4 ? COLUMNS : 4][ROWS] = {0};
    int i = begin;
    for (; i + WIDTH <= end; i += WIDTH, x += step) {
        if (soon) {
            __builtin_prefetch(soon + i);
            __builtin_prefetch(soon + gap + i);
        }
        for (int s = 0; s < streams; s++) {
            floats weight = *(const unaligned *)(b + (long)s * far * p.ldb + i);
            for (int row = 0; row < rows; row++)
                sums[s][row] += weight * *(const unaligned *)(x + row * stride);
        }
    }
    for (int s = 0; s < streams; s++)
        for (int row = 0; row < rows; row++) {
            float *out = c + (long)row * p.ldc + s * far, sum = total(sums[s][row]);
            for (int rest = i; rest < end; rest++)
                sum += b[(long)s * far * p.ldb + rest] * a[(long)row * p.lda + rest];
            *out = p.alpha * sum + (beta == 0 ? 0 : beta * *out);
        }
}

/* Multiply all rows of a, four at a time, while these rows of b are in the cache. */
static inline __attribute__((always_inline)) void all_dots(product p, int streams, int j, int far,
                                                           int begin, int end)
{
    const float *b = p.b + (long)j * p.ldb, *soon;
    long gap = p.packed ? p.ldb : (long)far * p.ldb;
    int row = 0;
    for (; row + ROWS <= p.m; row += ROWS) {
        if (p.packed) /* each four rows fetch two of the next columns */
            soon = row / 2 < streams ? b + (streams + row / 2) * (long)p.ldb : 0;
        else
            soon = row == ROWS ? b + p.ldb : 0;
        dots(p, ROWS, streams, row, j, far, begin, end, soon, gap);
    }
    switch (p.m - row) {
    case 1: dots(p, 1, streams, row, j, far, begin, end, 0, 0); return;
    case 2: dots(p, 2, streams, row, j, far, begin, end, 0, 0); return;
    case 3: dots(p, 3, streams, row, j, far, begin, end, 0, 0); return;
    }
}

/* Compute columns [begin, end) of c with few sums: reading b takes the time. */
static void far_columns(product p, int begin, int end)
{
    int streams = p.m < 3 ? 4 : 2, far = (end - begin) / streams, rest = begin + streams * far;
    for (int j = begin; j < begin + far; j++)
        if (p.m < 3)
            all_dots(p, 4, j, far, 0, p.k);
        else
            all_dots(p, 2, j, far, 0, p.k);
    for (int j = rest; j < end; j++)
        all_dots(p, 1, j, 0, 0, p.k);
}

/* Compute columns [begin, end) of c in tiles: adding takes the time. Parts of a and b stay in the
 * cache, so long rows are multiplied in several parts. */
static void tiled_columns(product p, int begin, int end)
{
    int parts = (p.k + DEPTH - 1) / DEPTH, depth = (p.k / parts + WIDTH) / WIDTH * WIDTH;
    for (int from = 0; from < p.k; from += depth) {
        int to = from + depth < p.k ? from + depth : p.k, j = begin;
        for (; j + COLUMNS <= end; j += COLUMNS)
            all_dots(p, COLUMNS, j, 1, from, to);
        for (; j < end; j++)
            all_dots(p, 1, j, 0, from, to);
    }
}

static void columns(product p, int begin, int end)
{
    if (p.packed)
        tiled_columns(p, begin, end);
    else
        far_columns(p, begin, end);
}

/* Return a with its rows interleaved by fours in the order in which tiles read them, without the
 * rest beyond whole vectors: rows that are a power of two apart would evict each other. */
static const floats *pack(product p)
{
    static __thread floats *room;
    static __thread long size;
    long needed = (long)p.m * (p.k / WIDTH);
    if (needed > size) {
        free(room);
        room = aligned_alloc(sizeof(floats), needed * sizeof(floats));
        size = room ? needed : 0;
    }
    floats *to = room;
    for (int first = 0, rows; room && first < p.m; first += rows) {
        rows = p.m - first < ROWS ? p.m - first : ROWS;
        for (int i = 0; i + WIDTH <= p.k; i += WIDTH)
            for (int row = 0; row < rows; row++)
                *to++ = *(const unaligned *)(p.a + (long)(first + row) * p.lda + i);
    }
    return room;
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
    if (COLUMNS > 4 && p.m >= LEAST_TILED)
        p.packed = pack(p); /* without memory it is slower */
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
