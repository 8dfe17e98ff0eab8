/* The processes sum some MiB and pass others on in a ring, and check what came: `exchange ROUNDS`.

   Each says its rank and the number of processes. With a second argument none calls MPI_Finalize,
   in which MPICH before 4.2 hangs over TCP (docs/critiques.md). */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define COUNT (512 * 1024) /* doubles: 4 MiB */

static double own[COUNT], sum[COUNT], passed[COUNT];

static int is_wrong(int rank, int size, int round) {
    for (int i = 0; i < COUNT; i++) {
        double wanted = size * (size - 1) / 2 + (double)size * (round + i);
        if (sum[i] != wanted || passed[i] != (rank + size - 1) % size + round + i) return 1;
    }
    return 0;
}

int main(int argc, char **argv) {
    int rank, size, rounds = argc > 1 ? atoi(argv[1]) : 1;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    for (int round = 0; round < rounds; round++) {
        for (int i = 0; i < COUNT; i++) own[i] = rank + round + i;
        MPI_Allreduce(own, sum, COUNT, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
        MPI_Sendrecv(own, COUNT, MPI_DOUBLE, (rank + 1) % size, round, passed, COUNT, MPI_DOUBLE,
                     (rank + size - 1) % size, round, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        if (is_wrong(rank, size, round)) MPI_Abort(MPI_COMM_WORLD, 3);
    }
    printf("%d of %d\n", rank, size);
    fflush(stdout);
    if (argc > 2) {
        MPI_Barrier(MPI_COMM_WORLD);
        _exit(0);
    }
    MPI_Finalize();
    return 0;
}
