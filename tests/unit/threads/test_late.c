/* SPDX-License-Identifier: Apache-2.0
 *
 * A thread that is stopped for a moment between setting its timer and waiting, as any may be on a busy machine:
 * smoe_poll comes back all the same. libuv runs timers that are due before it waits, so that one that is
 * already due does not end the wait. This program's uv_run stands before libuv's and is late each time.
 */
#include <arpa/inet.h>
#include <dlfcn.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "stablemoe/stablemoe.h"
#include "tests/unit/threads/must.h"

__attribute__((visibility("default"))) int uv_run(void *loop, int mode);

int uv_run(void *loop, int mode)
{
    static int (*next)(void *, int);
    if (!next) {
        void *symbol = dlsym(RTLD_NEXT, "uv_run");
        memcpy(&next, &symbol, sizeof next);
    }
    usleep(5000);
    return next(loop, mode);
}

/* Somebody who takes the connection and says nothing. */
static void listen_silently(char address[static 64])
{
    struct sockaddr_in any = {.sin_family = AF_INET};
    socklen_t len = sizeof any;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    any.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    must(bind(fd, (struct sockaddr *)&any, len) == 0 && listen(fd, 1) == 0);
    must(getsockname(fd, (struct sockaddr *)&any, &len) == 0);
    snprintf(address, 64, "127.0.0.1:%u", ntohs(any.sin_port));
}

int main(void)
{
    char address[64];
    struct smoe_client *client;
    listen_silently(address);
    struct smoe_client_options options = {.gateway = address, .name = "late", .patience_ms = 300};
    alarm(60); /* whoever waits for ever is killed */
    must(smoe_client_open(&options, &client) != 0);
    for (int i = 0; i < 50; i++)
        (void)smoe_poll(client, 1);
    smoe_client_close(client);
    return 0;
}
