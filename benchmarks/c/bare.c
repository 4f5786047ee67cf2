/* The floor of a single get or put: bare get|put NAMES. One send and one receive of Channel Access bytes on a TCP
 * connection, without libca: what the machine, its kernel and the IOC take, whoever asks. */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bench.h"

struct message {
    uint16_t command, size, type, count;
    uint32_t one, two;
};

static int circuit;

static void tell(uint16_t command, const char *payload, uint16_t type, uint16_t elements, uint32_t one, uint32_t two) {
    char buffer[256] = {0};
    size_t length = payload ? (strlen(payload) + 8) & ~7u : 0;
    struct message header = {htons(command), htons(length), htons(type), htons(elements), htonl(one), htonl(two)};
    memcpy(buffer, &header, 16);
    if (payload) strcpy(buffer + 16, payload);
    if (send(circuit, buffer, 16 + length, 0) < 0) exit(1);
}

/* Reads messages until one of this command has come; its payload goes to `payload`, its second field is returned. */
static uint32_t hear(uint16_t command, char *payload) {
    static char buffer[4096];
    static size_t have;
    for (;;) {
        struct message *header = (struct message *)buffer;
        size_t length = have < 16 ? 16 : 16 + ntohs(header->size);
        if (have < 16 || have < length) {
            ssize_t got = recv(circuit, buffer + have, sizeof buffer - have, 0);
            if (got <= 0) exit(1);
            have += got;
            continue;
        }
        int found = ntohs(header->command) == command;
        uint32_t two = ntohl(header->two);
        if (found && payload) memcpy(payload, buffer + 16, length - 16);
        memmove(buffer, buffer + length, have - length);
        have -= length;
        if (found) return two;
    }
}

static uint64_t swapped(double value) {
    uint64_t bits;
    memcpy(&bits, &value, 8);
    return __builtin_bswap64(bits);
}

static double unswapped(const char *bytes) {
    uint64_t bits;
    double value;
    memcpy(&bits, bytes, 8);
    bits = __builtin_bswap64(bits);
    memcpy(&value, &bits, 8);
    return value;
}

/* WRITE_NOTIFY of one DBR_DOUBLE. */
static void put(uint32_t sid, double value, int id) {
    char buffer[24];
    struct message header = {htons(19), htons(8), htons(DBR_DOUBLE), htons(1), htonl(sid), htonl(id)};
    uint64_t bits = swapped(value);
    memcpy(buffer, &header, 16);
    memcpy(buffer + 16, &bits, 8);
    if (send(circuit, buffer, 24, 0) < 0) exit(1);
    hear(19, NULL);
}

int main(int argc, char **argv) {
    struct sockaddr_in address = {.sin_family = AF_INET};
    char line[64], payload[4096];
    int on = 1;
    if (argc < 3) return 2;
    load_names(argv[2]);
    address.sin_port = htons(atoi(getenv("EPICS_CA_SERVER_PORT")));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    circuit = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(circuit, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(circuit, (struct sockaddr *)&address, sizeof address) < 0) {
        perror("connect");
        return 1;
    }
    tell(0, NULL, 0, 13, 0, 0);             /* VERSION */
    tell(18, names[0], 0, 0, 1, 13);        /* CREATE_CHAN, our id 1, minor version 13 */
    uint32_t sid = hear(18, NULL);
    puts("{\"ready\": true}");
    while (fflush(stdout), fgets(line, sizeof line, stdin) && atoi(line) > 0) {
        int repetitions = atoi(line), right = 0, puts = strcmp(argv[1], "put") == 0;
        printf("{\"ns\": [");
        for (int i = 0; i < repetitions; i++) {
            double start = now();
            if (puts) {
                put(sid, i + 1, i);
            } else {
                tell(15, NULL, DBR_TIME_DOUBLE, 1, sid, i); /* READ_NOTIFY */
                hear(15, payload);
            }
            printf("%s%.0f", i ? "," : "", 1e9 * (now() - start));
            right += !puts && unswapped(payload + 16) == expected[0];
        }
        if (puts) {
            tell(15, NULL, DBR_TIME_DOUBLE, 1, sid, 0);
            hear(15, payload);
            right = unswapped(payload + 16) == repetitions ? repetitions : 0;
        }
        printf("], \"right\": %d, \"n\": %d}\n", right, repetitions);
    }
    return 0;
}
