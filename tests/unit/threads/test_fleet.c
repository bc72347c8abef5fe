/* SPDX-License-Identifier: Apache-2.0
 *
 * A whole fleet in one process: the gateway's loop, two workers with two lanes each, and two
 * trainers with a client each, all in threads of their own. The trainers teach their layers to
 * answer x with -x; then SIGTERM ends gateway and workers as it does in life. Shows that clients
 * of different threads share nothing, and, under ThreadSanitizer, that no two threads of a worker
 * do either.
 */
#include <arpa/inet.h>
#include <math.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "client/worker/shell/loop.h"
#include "common/io/log.h"
#include "daemon/shell/guard.h"
#include "daemon/shell/loop.h"
#include "stablemoe/stablemoe.h"
#include "tests/unit/threads/must.h"

enum { WORKERS = 2, TRAINERS = 2, STEPS = 8, TOKENS = 48, TOP_K = 2, EXPERTS = 4, D = 16, H = 64 };

static char gateway[64]; /* address, before any thread starts */
static char state_dir[] = "/tmp/smoe-threads-XXXXXX";

/* A port that is free now; the gateway takes it at once. */
static void choose_port(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t len = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    must(bind(fd, (struct sockaddr *)&address, len) == 0);
    must(getsockname(fd, (struct sockaddr *)&address, &len) == 0);
    close(fd);
    snprintf(gateway, sizeof gateway, "127.0.0.1:%u", ntohs(address.sin_port));
}

static void *gateway_main(void *unused)
{
    struct smoe_daemon_start start = {.version = "test"};
    char listen[96], dir[96];
    struct smoe_option_list sets = {.len = 4};
    struct smoe_why why;
    (void)unused;
    snprintf(listen, sizeof listen, "net.listen=%s", gateway);
    snprintf(dir, sizeof dir, "state.dir=%s", state_dir);
    sets.items[0] = listen;
    sets.items[1] = dir;
    sets.items[2] = "net.status=127.0.0.1:0";
    sets.items[3] = "fleet.workers_min=2";
    start.sources = (struct smoe_config_sources){.sets = &sets};
    must(smoe_config_load(&start.config, smoe_daemon_options, smoe_daemon_options_len,
                          &start.settings, &start.sources, &why) == 0);
    start.settings.log_level = SMOE_LOG_ERROR;
    start.settings.insecure = SMOE_INSECURE_LOOPBACK;
    int rc = smoe_daemon_run(&start, &why);
    if (rc)
        fprintf(stderr, "gateway: %s\n", why.text);
    smoe_config_release(&start.config);
    must(rc == 0);
    return NULL;
}

static void *worker_main(void *argument)
{
    struct smoe_worker_settings s = {.peer_listen = "auto",
                                     .speed = 0.9,
                                     .lanes = 2,
                                     .memory_bytes = 64 << 20,
                                     .freq_nominal_hz = 1e9,
                                     .log_level = SMOE_LOG_ERROR};
    struct smoe_why why;
    snprintf(s.gateway, sizeof s.gateway, "%s", gateway);
    snprintf(s.id, sizeof s.id, "w%d", *(int *)argument);
    int rc = smoe_worker_run(&s, &why);
    if (rc)
        fprintf(stderr, "worker: %s\n", why.text);
    must(rc == 0);
    return NULL;
}

/* ---- a trainer ---- */

/* One step on fresh tokens: y = sum_k s_k y_k should be -x. Returns the mean square error. */
static double train(struct smoe_client *client, struct smoe_expert_layer *layer, unsigned seed)
{
    static const struct smoe_step_options step = {
        .kind = SMOE_LAYER_SGD, .learning_rate = 0.05, .gradient_divisor = TOKENS};
    float scores[TOKENS * EXPERTS];
    smoe_real x[TOKENS * D], dy[TOKENS * TOP_K * D];
    struct smoe_ticket *ticket;
    double loss = 0;
    for (unsigned i = 0; i < TOKENS * EXPERTS; i++)
        scores[i] = 1.0f / (float)(1 + (i * 7 + i / EXPERTS + seed) % EXPERTS);
    for (unsigned i = 0; i < TOKENS * D; i++)
        x[i] = (smoe_real)sin((double)(i * 31 + seed * 17));
    struct smoe_submit_options o = {.tokens = TOKENS, .top_k = TOP_K, .scores = scores, .x = x};
    must(smoe_submit(layer, &o, &ticket) == 0);
    must(smoe_wait(ticket) == 0);
    const smoe_real *y = smoe_ticket_outputs(ticket);
    for (unsigned n = 0; n < TOKENS; n++)
        for (unsigned i = 0; i < D; i++) {
            smoe_real error = x[n * D + i];
            for (unsigned k = 0; k < TOP_K; k++)
                error += y[(n * TOP_K + k) * D + i] / TOP_K;
            loss += (double)(error * error) / (TOKENS * D);
            for (unsigned k = 0; k < TOP_K; k++)
                dy[(n * TOP_K + k) * D + i] = error / TOP_K;
        }
    const smoe_real *dx;
    must(smoe_gradient(ticket, dy) == 0);
    must(smoe_wait_gradient(ticket, &dx) == 0);
    struct smoe_step_result result;
    must(smoe_step(client, &step, &result) == 0);
    must(result.square_norm > 0);
    smoe_ticket_release(ticket);
    return loss;
}

static void *trainer_main(void *argument)
{
    char name[16];
    struct smoe_client *client;
    struct smoe_expert_layer *layer;
    snprintf(name, sizeof name, "t%d", *(int *)argument);
    struct smoe_client_options o = {.gateway = gateway, .name = name, .patience_ms = 60000};
    struct smoe_layer_options shape = {.name = name,
                                       .experts = EXPERTS,
                                       .d_model = D,
                                       .d_ff = H,
                                       .activation = SMOE_LAYER_RELU,
                                       .optimizer = SMOE_LAYER_SGD,
                                       .seed = 1};
    must(smoe_client_open(&o, &client) == 0);
    must(smoe_layer_declare(client, &shape, &layer) == 0);
    double first = train(client, layer, 0), last = first;
    for (unsigned i = 1; i < STEPS; i++)
        last = train(client, layer, 0);
    if (!(last < first))
        fprintf(stderr, "%s: loss %g, then %g\n", name, first, last);
    must(last < first);
    must(smoe_client_step(client) == STEPS);
    smoe_client_close(client);
    return NULL;
}

int main(void)
{
    static int numbers[] = {0, 1, 2};
    pthread_t daemon_thread, workers[WORKERS], trainers[TRAINERS];
    must(mkdtemp(state_dir));
    choose_port();
    must(pthread_create(&daemon_thread, NULL, gateway_main, NULL) == 0);
    for (int i = 0; i < WORKERS; i++)
        must(pthread_create(&workers[i], NULL, worker_main, &numbers[i]) == 0);
    for (int i = 0; i < TRAINERS; i++)
        must(pthread_create(&trainers[i], NULL, trainer_main, &numbers[i]) == 0);
    for (int i = 0; i < TRAINERS; i++)
        must(pthread_join(trainers[i], NULL) == 0);
    must(kill(getpid(), SIGTERM) == 0);
    must(pthread_join(daemon_thread, NULL) == 0);
    for (int i = 0; i < WORKERS; i++)
        must(pthread_join(workers[i], NULL) == 0);
    char path[64];
    static const char *const left[] = {"lock", "admin.sock"};
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/%s", state_dir, left[i]);
        (void)unlink(path);
    }
    (void)rmdir(state_dir);
    return 0;
}
