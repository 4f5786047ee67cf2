/* Shared by the yardstick programs on libca: the names file, clocks, a client's own memory, and the
 * conversation with the driver (one JSON line out for each command line in). Each program includes it once. */
#ifndef BENCH_H
#define BENCH_H

#include <cadef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

static char **names;     /* PV names, in the order of the file */
static double *expected; /* the value each should have */
static int count;        /* how many */

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

/* CPU seconds of the whole process, all threads of libca included. */
static double cpu(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

static void check(int status, const char *what) {
    if (status != ECA_NORMAL) {
        fprintf(stderr, "%s: %s\n", what, ca_message(status));
        exit(1);
    }
}

/* Each line of the file: a PV name, a tab, the value it should have. */
static void load_names(const char *path) {
    char line[256], name[128];
    double value;
    int room = 0;
    FILE *file = fopen(path, "r");
    if (!file) {
        perror(path);
        exit(1);
    }
    while (fgets(line, sizeof line, file)) {
        if (sscanf(line, "%127s %lf", name, &value) != 2) continue;
        if (count == room) {
            room = room ? 2 * room : 1024;
            names = realloc(names, room * sizeof *names);
            expected = realloc(expected, room * sizeof *expected);
        }
        names[count] = strdup(name);
        expected[count++] = value;
    }
    fclose(file);
}

/* Bytes that belong to this process alone (Private_Clean + Private_Dirty). */
static long private_bytes(void) {
    char line[256];
    long kb, sum = 0;
    FILE *file = fopen("/proc/self/smaps_rollup", "r");
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "Private_Clean: %ld kB", &kb) == 1 || sscanf(line, "Private_Dirty: %ld kB", &kb) == 1) sum += kb;
    if (file) fclose(file);
    return 1024 * sum;
}

/* Wait for the driver's next command; 0 at the end of input or at "stop". */
static int next_command(void) {
    char line[64];
    return fgets(line, sizeof line, stdin) && strncmp(line, "stop", 4) != 0;
}

static chid *create_channels(caCh *on_connection) {
    chid *channels = calloc(count, sizeof *channels);
    for (int i = 0; i < count; i++)
        check(ca_create_channel(names[i], on_connection, (void *)(size_t)i, 0, &channels[i]), names[i]);
    return channels;
}

#endif
