/**
 * The two units of a host under systemd. `sojourn.service` is the daemon: it may be restarted at any time, and guests
 * do not notice. `sojourn-domains.service` is what a host's own start and end mean for its domains, apart from the
 * daemon's.
 *
 * Units are stopped in the reverse order of their start. At a shutdown the domains are therefore drained while the
 * daemon still serves their vbds, then the daemon ends, and then xendomains finds none of ours to save.
 */

import { HOOKS } from "../hooks/hooks.ts";
import { MARK } from "../marked-file.ts";
import type { HostEntry } from "./host-entries.ts";

export type UnitOptions = {
  /** The words with which the host runs us. */
  program: readonly string[];
  dataDir: string;
};

const UNIT_FOLDER = "/etc/systemd/system";
export const DAEMON_UNIT = "sojourn.service";
export const DOMAINS_UNIT = "sojourn-domains.service";
const TARGET = "multi-user.target";
const OPTIONS_FILE = "/etc/default/sojourn";
const XEN_UNITS = [
  ...["xen.service", "xenstored.service", "xen-init-dom0.service", "xenconsoled.service"],
  "xendomains.service",
];

export function unitEntries(options: UnitOptions): HostEntry[] {
  const { dataDir } = options;
  const file = (name: string, text: string, what: string): HostEntry => {
    return { kind: "file", path: `${UNIT_FOLDER}/${name}`, text, mode: 0o644, what };
  };
  const enabled = (name: string, what: string): HostEntry => {
    const path = `${UNIT_FOLDER}/${TARGET}.wants/${name}`;
    return { kind: "link", path, target: `${UNIT_FOLDER}/${name}`, what };
  };
  return [
    file(DAEMON_UNIT, daemonUnit(options), "the daemon as a service"),
    file(DOMAINS_UNIT, domainsUnit(options), "domains drained before a shutdown, and back after a boot"),
    enabled(DAEMON_UNIT, "the daemon starts with the host"),
    enabled(DOMAINS_UNIT, "the domains follow it"),
    { kind: "folder", path: dataDir, mode: 0o700, what: "the data folder" },
    {
      kind: "folder",
      path: `${dataDir}/hooks`,
      mode: 0o755,
      what: "programs of yours at the steps of a migration",
    },
    {
      kind: "file",
      path: `${dataDir}/hooks/README`,
      text: hooksReadme(),
      mode: 0o644,
      what: "which names they have",
    },
  ];
}

function daemonUnit({ program, dataDir }: UnitOptions): string {
  return `# ${MARK} \`systemctl edit ${DAEMON_UNIT}\` keeps yours.
[Unit]
Description=Sojourn: moves running domains from host to host
Wants=network-online.target
After=network-online.target ${XEN_UNITS.join(" ")}

[Service]
Type=exec
ExecStart=${commandLine([...program, "up", "--data-dir", dataDir])}
Restart=always
RestartSec=1
# Guests, their device models and Xen's helpers begin as processes of this unit and outlive the daemon: whoever stops
# or restarts it ends the daemon alone.
KillMode=process
OOMPolicy=continue
TimeoutStopSec=90
LimitNOFILE=65536
TasksMax=infinity

[Install]
WantedBy=${TARGET}
`;
}

function domainsUnit({ program, dataDir }: UnitOptions): string {
  return `# ${MARK} \`systemctl edit ${DOMAINS_UNIT}\` keeps yours.
# In ${OPTIONS_FILE}: DRAIN_OPTIONS="--to HOST" moves the domains away at a shutdown instead of ending them;
# UNDRAIN_OPTIONS=--crashed starts those, too, that a power cut ended.
[Unit]
Description=Sojourn: this host's domains, ended in order before a shutdown and started again afterwards
Wants=${DAEMON_UNIT}
After=${DAEMON_UNIT} ${XEN_UNITS.join(" ")}

[Service]
Type=oneshot
RemainAfterExit=yes
Environment=${quoted(`SOJOURN_DATA=${dataDir}`)}
EnvironmentFile=-${OPTIONS_FILE}
ExecStart=${commandLine([...program, "undrain", "--wait", "10m"])} $UNDRAIN_OPTIONS
ExecStop=${commandLine([...program, "drain"])} $DRAIN_OPTIONS
TimeoutStartSec=infinity
TimeoutStopSec=30min

[Install]
WantedBy=${TARGET}
`;
}

function hooksReadme(): string {
  const lines = Object.entries(HOOKS).map(([name, when]) => `  ${name.padEnd(12)}  ${when}`);
  return `${MARK}

An executable file of one of these names is run with one JSON object on its stdin:

${lines.join("\n")}
`;
}

/** As systemd reads a command: quotes around what has blanks, its own signs doubled. */
function commandLine(words: readonly string[]): string {
  return words.map((word) => quoted(word.replaceAll("$", "$$$$"))).join(" ");
}

function quoted(word: string): string {
  const plain = word.replaceAll("%", "%%");
  return /^[\w./:=@%$+-]+$/.test(plain) ? plain : `"${plain.replace(/["\\]/g, "\\$&")}"`;
}
