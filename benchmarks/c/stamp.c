/* Puts the time, on libca: stamp NAMES. For each line "N RATE" it puts the monotonic clock, in seconds, to the first name,
 * N times, RATE times a second, and prints all that it put. */
#include <unistd.h>

#include "bench.h"

int main(int argc, char **argv) {
    char line[128];
    long n;
    double rate;
    if (argc < 3) return 2;
    load_names(argv[2]);
    check(ca_context_create(ca_enable_preemptive_callback), "context");
    chid *channels = create_channels(NULL);
    check(ca_pend_io(60.0), "connect");
    puts("{\"ready\": true}");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin) && sscanf(line, "%ld %lf", &n, &rate) == 2 && n > 0 && rate > 0) {
        double *stamps = calloc(n, sizeof *stamps), start = now();
        for (long i = 0; i < n; i++) {
            double ahead = i / rate - (now() - start);
            if (ahead > 0) usleep((useconds_t)(1e6 * ahead));
            stamps[i] = now();
            check(ca_array_put(DBR_DOUBLE, 1, channels[0], &stamps[i]), "put");
            ca_flush_io();
        }
        printf("{\"stamps\": [");
        for (long i = 0; i < n; i++) printf("%s%.17g", i ? "," : "", stamps[i]);
        printf("]}\n");
        fflush(stdout);
        free(stamps);
    }
    ca_context_destroy();
    return 0;
}
