/* One of the processes fails while all others wait for it: `failing exit CODE`, `failing abort CODE`
   or `failing signal NUMBER`. */
#include <mpi.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv) {
    int rank, number = argc > 2 ? atoi(argv[2]) : 0;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Barrier(MPI_COMM_WORLD);
    if (rank != 1) {
        for (;;) pause();
    }
    if (!strcmp(argv[1], "exit")) _exit(number);
    if (!strcmp(argv[1], "abort")) MPI_Abort(MPI_COMM_WORLD, number);
    raise(number);
    return 0;
}
