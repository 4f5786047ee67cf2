/* Prints how EPICS reads the environment of a CA client: ports, numbers, and the addresses that libca searches. */
#include <stdio.h>
#include <osiSock.h>
#include <ellLib.h>
#include <envDefs.h>
#include <addrList.h>

static void addresses(const char *what, ELLLIST *list)
{
    ELLNODE *node;
    char text[64];

    for (node = ellFirst(list); node; node = ellNext(node)) {
        ipAddrToDottedIP(&((osiSockAddrNode *)node)->addr.ia, text, sizeof(text));
        printf("%s %s\n", what, text);
    }
}

int main(void)
{
    ELLLIST search = ELLLIST_INIT, name_servers = ELLLIST_INIT;
    unsigned short port = envGetInetPortConfigParam(&EPICS_CA_SERVER_PORT, 5064);
    double number;
    long integer;

    osiSockAttach();
    printf("server_port %u\n", port);
    printf("repeater_port %u\n", envGetInetPortConfigParam(&EPICS_CA_REPEATER_PORT, 5065));
    if (envGetDoubleConfigParam(&EPICS_CA_CONN_TMO, &number) == 0)
        printf("conn_tmo %g\n", number);
    if (envGetDoubleConfigParam(&EPICS_CA_MAX_SEARCH_PERIOD, &number) == 0)
        printf("max_search_period %g\n", number);
    if (envGetLongConfigParam(&EPICS_CA_MAX_ARRAY_BYTES, &integer) == 0)
        printf("max_array_bytes %ld\n", integer);
    if (envGetLongConfigParam(&EPICS_CA_MCAST_TTL, &integer) == 0)
        printf("mcast_ttl %ld\n", integer);
    configureChannelAccessAddressList(&search, epicsSocketCreate(AF_INET, SOCK_DGRAM, 0), port);
    addresses("search", &search);
    addAddrToChannelAccessAddressList(&name_servers, &EPICS_CA_NAME_SERVERS, port, 0);
    addresses("name_server", &name_servers);
    return 0;
}
