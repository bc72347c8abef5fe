/* SPDX-License-Identifier: Apache-2.0 */
#include "client/worker/shell/settings.h"

#include <string.h>
#include <unistd.h>

#include "client/worker/agent/agent.h"
#include "client/worker/shell/freqctl.h"
#include "client/worker/shell/meter.h"
#include "common/io/freqmsg.h"
#include "common/io/log.h"
#include "stablemoe/version.h"

#define AT(member) SMOE_OPTION_AT(struct smoe_worker_settings, member)

static const struct smoe_cli_option options[] = {
    {{.key = "gateway", .type = SMOE_ENDPOINT, AT(gateway), .help = "where stablemoed listens"},
     'g',
     "ADDR:PORT",
     true},
    {{.key = "id",
      .type = SMOE_NAME,
      AT(id),
      .help = "name of this node, the same at every start; kept in the state directory"},
     'i',
     "NAME",
     false},
    {{.key = "key",
      .type = SMOE_STRING,
      AT(key),
      .help =
          "file with this node's key (stablemoectl key add worker NAME on the gateway) or "
          "certificate; without one it speaks plaintext, and to a gateway of this machine only"},
     'k',
     "FILE",
     false},
    {{.key = "peer-listen",
      .type = SMOE_STRING,
      .standard = "auto",
      AT(peer_listen),
      .help = "where it takes direct links from other workers; auto: a free port of the address "
              "from which it reaches the gateway; none: all goes through the gateway"},
     0,
     "ADDR:PORT",
     false},
    {{.key = "speed",
      .type = SMOE_DOUBLE,
      .standard = "1",
      .min = 0.01,
      .max = 1,
      AT(speed),
      .help = "share of the time its compute threads may run"},
     0,
     "X",
     false},
    {{.key = "state-dir",
      .type = SMOE_STRING,
      AT(state_dir),
      .help = "directory that keeps the id; one worker each"},
     0,
     "DIR",
     false},
    {{.key = "lanes",
      .type = SMOE_U64,
      .standard = "1",
      .min = 1,
      .max = SMOE_LANES_MAX,
      AT(lanes),
      .help = "compute threads"},
     0,
     "N",
     false},
    {{.key = "memory",
      .type = SMOE_BYTES,
      .standard = "0",
      .min = 0,
      .max = 0x1p50,
      AT(memory_bytes),
      .help = "memory for experts and activations; 0: half of this machine's"},
     0,
     "SIZE",
     false},
    {{.key = "slots",
      .type = SMOE_U64,
      .standard = "0",
      .min = 0,
      .max = SMOE_EXPERTS_MAX,
      .unit = "experts",
      AT(expert_slots),
      .help = "experts of a sharded layer that it serves at a time; 0: as memory allows"},
     0,
     "N",
     false},
    {{.key = "freq",
      .type = SMOE_DOUBLE,
      .standard = "0",
      .min = 0,
      .max = 1e12,
      .unit = "Hz",
      AT(freq_nominal_hz),
      .help = "nominal frequency of a core; 0: ask the machine"},
     0,
     "HZ",
     false},
    {{.key = "freq-driver",
      .type = SMOE_ENUM,
      .standard = "auto",
      .choices = smoe_freqctl_names,
      AT(freq_driver),
      .help = "what obeys the frequency the gateway decides; auto: the first that is permitted"},
     0,
     "NAME",
     false},
    {{.key = "freqd",
      .type = SMOE_STRING,
      .standard = SMOE_FREQ_SOCKET,
      AT(freqd),
      .help = "socket of stablemoe-freqd, which cpufreq and RAPL counters need"},
     0,
     "PATH",
     false},
    {{.key = "energy-meter",
      .type = SMOE_ENUM,
      .standard = "auto",
      .choices = smoe_meter_names,
      AT(energy_meter),
      .help = "where joules come from; auto: the first that is there; model: --watts"},
     0,
     "NAME",
     false},
    {{.key = "temp-max",
      .type = SMOE_DOUBLE,
      .standard = "0",
      .min = 0,
      .max = 150,
      .unit = "C",
      AT(temp_max_c),
      .help = "temperature above which it slows itself down; 0: none"},
     0,
     "C",
     false},
    {{.key = "watts",
      .type = SMOE_DOUBLE,
      .standard = "0",
      .min = 0,
      .max = 1e6,
      .unit = "W",
      AT(watts),
      .help = "power drawn while all lanes compute; 0: unknown, no energy is reported"},
     0,
     "W",
     false},
    {{.key = "budget",
      .type = SMOE_DOUBLE,
      .standard = "0",
      .min = 0,
      .max = 1e6,
      .unit = "W",
      AT(budget),
      .help = "mean power this node may draw over time, as --watts and its meter know it; 0: any"},
     0,
     "W",
     false},
    {{.key = "cap",
      .type = SMOE_DOUBLE,
      .standard = "0",
      .min = 0,
      .max = 1e6,
      .unit = "W",
      AT(cap),
      .help = "power this node may draw at any time; 0: any"},
     0,
     "W",
     false},
    {{.key = "log-level",
      .type = SMOE_ENUM,
      .standard = "info",
      .choices = smoe_log_levels,
      AT(log_level),
      .help = "least severe messages to log"},
     0,
     "LEVEL",
     false},
};

const struct smoe_cli smoe_worker_cli = {
    .program = "stablemoe-worker",
    .version = STABLEMOE_VERSION,
    .summary = "Hosts experts for a stablemoe gateway and computes what it is given",
    .options = options,
    .options_len = sizeof options / sizeof *options,
};

int smoe_worker_settings_complete(struct smoe_worker_settings *s, struct smoe_why *why)
{
    if (!*s->id && !*s->state_dir && !*s->key)
        return smoe_fail(why, SMOE_ECONFIG,
                         "--id: needed unless --state-dir keeps one, or --key names it");
    struct smoe_addr address;
    struct smoe_why no_number;
    if (!*s->key && smoe_addr_parse(s->gateway, &address, &no_number) == 0 &&
        !smoe_addr_is_loopback(&address))
        return smoe_fail(why, SMOE_ECONFIG,
                         "--key: needed, %s is not on this machine (stablemoectl key add worker "
                         "NAME, on the gateway, makes one)",
                         s->gateway);
    bool fixed = strcmp(s->peer_listen, "auto") != 0 && strcmp(s->peer_listen, "none") != 0;
    if (fixed && smoe_addr_parse(s->peer_listen, &address, why))
        return smoe_fail_at(why, SMOE_ECONFIG, "--peer-listen");
    if (fixed && !*s->key && !smoe_addr_is_loopback(&address))
        return smoe_fail(why, SMOE_ECONFIG,
                         "--peer-listen %s: is not of this machine only, and without --key direct "
                         "links are plaintext",
                         s->peer_listen);
    if (s->freq_nominal_hz <= 0)
        s->freq_nominal_hz = smoe_freqctl_nominal_hz();
    if (!s->memory_bytes)
        s->memory_bytes = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE) / 2;
    if (s->memory_bytes < (UINT64_C(16) << 20))
        return smoe_fail(why, SMOE_ECONFIG, "--memory: at least 16MiB");
    return 0;
}
