/** The domain of `npm run xen`: made on the first host, taken from host to host, and looked at from outside. */

import { setTimeout as pause } from "node:timers/promises";
import type { DomainDetail } from "../../node/control/api.ts";
import { type Check, check } from "../tour-checks.ts";
import type { Hop } from "../tour-options.ts";
import { BREAKS } from "./breaks.ts";
import { daemonLog, type XenCluster } from "./xen-cluster.ts";
import type { XenHost } from "./xen-host.ts";
import type { XenRunOptions } from "./xen-options.ts";
import { bytesAllowed, type XenBreak, type XenHop } from "./xen-report.ts";

const DOMAIN = "linux";
const POLL_MS = 1000;
const GUEST_TIMEOUT_MS = 300_000;
const KERNEL_ARGUMENTS = [
  ...[
    "console=hvc0",
    "quiet",
    "mitigations=off",
    "nokaslr",
    "random.trust_cpu=on",
    "panic=1",
    "work.beat_ms=0",
  ],
  ...["work.memory_mib=8", "work.files=16"],
];
export const CONSOLES = "/var/log/xen/console/guest-linux*.log";

type GuestLine = { type: string; errors?: number };

export class XenRun {
  readonly #cluster: XenCluster;
  readonly #options: XenRunOptions;
  readonly #say: (what: string) => void;
  readonly hops: XenHop[] = [];

  constructor(cluster: XenCluster, options: XenRunOptions, say: (what: string) => void) {
    this.#cluster = cluster;
    this.#options = options;
    this.#say = say;
  }

  async begin(): Promise<void> {
    const { route, memory, diskSize, secondSize, pagesPerSecond, blocksPerSecond, filesPerSecond } =
      this.#options;
    const host = this.#cluster.host(route[0]!);
    this.#say(`the guest boots on ${host.name}`);
    const image = "/var/lib/sojourn/image.ext4";
    await host.must(`truncate -s ${diskSize} ${image} && mke2fs -q -F -t ext4 ${image}`);
    const config = {
      ...{ type: "pvh", kernel: "vmlinuz", initrd: "guest-initrd.gz", tscMode: "native" },
      append: [
        ...KERNEL_ARGUMENTS,
        `work.pages_per_s=${pagesPerSecond}`,
        ...[`work.blocks_per_s=${blocksPerSecond}`, `work.files_per_s=${filesPerSecond}`],
      ].join(" "),
    };
    await host.call("create", {
      ...{ name: DOMAIN, hypervisor: "xen", memoryBytes: memory, config: JSON.stringify(config) },
      vbds: [
        { name: "root", image },
        { name: "second", sizeBytes: secondSize },
      ],
    });
    await host.must(`rm ${image}`);
    await this.#hears(host, "status", { after: 0 });
  }

  async hop({ from, to }: Hop): Promise<XenHop> {
    const [source, destination] = [this.#cluster.host(from), this.#cluster.host(to)];
    const hop = this.hops.length + 1;
    this.#say(`hop ${hop}, ${from} -> ${to}`);
    const isReturn = this.#options.route.slice(0, hop).includes(to);
    await destination.must(`rm -f ${CONSOLES}`);
    const report = await source.call(
      "migrate",
      { domain: DOMAIN, to },
      { onEvent: (progress) => this.#say(`hop ${hop}, ${from} -> ${to}: ${progress.phase}`) },
    );
    this.#say(`hop ${hop}, ${from} -> ${to}: the guest verifies its disks and memory`);
    const guestErrors = await this.verify(destination);
    const running = await this.#domains();
    const byHand = hop === 1 ? await this.#byHand({ source, destination }) : [];
    const allowed = bytesAllowed(report);
    const result: XenHop = {
      hop,
      ...report,
      guestErrors,
      xen: await this.#figures(source),
      checks: [
        check("the guest's verification", guestErrors === 0, `${guestErrors} errors`),
        check(
          "one host has the domain",
          running.join() === `${to}:${DOMAIN}`,
          `in Xen: ${running.join(", ")}`,
        ),
        check(
          "the rung",
          report.rung === (isReturn ? "bitmaps" : "allocated"),
          `${report.rung}: ${report.reason}`,
        ),
        check(
          "the disk's bytes",
          !isReturn || report.diskBytesSent <= allowed,
          `${report.diskBytesSent} of ${allowed}`,
        ),
        ...byHand,
      ],
    };
    this.hops.push(result);
    return result;
  }

  /** Errors in all that the guest ever wrote, as it reads it back. */
  async verify(host: XenHost): Promise<number> {
    return (await this.#asks(host, "verify", "verified")).errors ?? Number.NaN;
  }

  /** One migration from where the domain is, broken; then the guest is asked. */
  async break(step: string, from: string): Promise<XenBreak> {
    const { what, ends, run } = BREAKS[step]!;
    const source = this.#cluster.host(from);
    const destination = this.#cluster.hosts.find((host) => host !== source)!;
    const say = (words: string): void => this.#say(`${step}: ${words}`);
    say(what);
    await destination.must(`rm -f ${CONSOLES}`);
    const migrate = (): void => {
      source
        .call("migrate", { domain: DOMAIN, to: destination.name })
        .catch((error: Error) => say(error.message));
    };
    await run({ cluster: this.#cluster, domain: DOMAIN, source, destination, migrate, say });
    const brokenAtMs = performance.now();
    say("waiting until it has settled");
    const said = new Set<string>();
    const runsOn = await this.#settled(said);
    const settledMs = Math.round(performance.now() - brokenAtMs);
    say(`the guest verifies on ${runsOn}`);
    const guestErrors = await this.verify(this.#cluster.host(runsOn));
    const expected = ends === "source" ? source.name : destination.name;
    return {
      ...{ break: step, what, from, to: destination.name, runsOn, settledMs, guestErrors },
      said: [...said],
      checks: [
        check(`${step}: where it ends`, runsOn === expected, `on ${runsOn}, expected ${expected}`),
        check(`${step}: the guest's verification`, guestErrors === 0, `${guestErrors} errors`),
      ],
    };
  }

  /** The name of the one host on which it runs, when Xen and every daemon agree and nothing is on its way. */
  async #settled(said: Set<string>): Promise<string> {
    const deadline = performance.now() + GUEST_TIMEOUT_MS;
    for (;;) {
      const running = await this.#domains();
      const shown = await Promise.all(
        this.#cluster.hosts.map(async (host) => {
          const { state, hostName, migration } = await this.#show(host);
          said.add(
            `${host.name}: ${state} on ${hostName}${migration === undefined ? "" : `, ${migration.phase}`}`,
          );
          return { state, hostName, isMoving: migration !== undefined };
        }),
      );
      const [only = "", ...others] = running;
      const host = only.split(":")[0]!;
      const isSettled = shown.every(
        ({ state, hostName, isMoving }) => state === "running" && hostName === host && !isMoving,
      );
      if (isSettled && others.length === 0 && only === `${host}:${DOMAIN}`) return host;
      if (performance.now() > deadline)
        throw new Error(`it does not settle: in Xen ${running.join(", ")}; said ${[...said].join("; ")}`);
      await pause(POLL_MS);
    }
  }

  /** The guest ends in order; then its file system is looked at from outside. */
  async finish(last: string): Promise<{ fsck: string; checks: Check[] }> {
    const host = this.#cluster.host(last);
    this.#say("the guest powers off");
    const { errors = Number.NaN } = await this.#asks(host, "halt", "unmounted");
    const deadline = performance.now() + GUEST_TIMEOUT_MS;
    while ((await this.#show(host)).state === "running" && performance.now() < deadline) await pause(POLL_MS);
    await host.call("destroy", { domain: DOMAIN });
    const { vbdFiles = [] } = await this.#show(host);
    const path = vbdFiles.find(({ name }) => name === "root")?.path;
    const { code, output } = await host.run(`e2fsck -f -n '${path}'`);
    return {
      fsck: code === 0 ? "clean" : output,
      checks: [
        check("no error in the guest's life", errors === 0, `${errors} errors`),
        check("e2fsck -fn", code === 0, output),
      ],
    };
  }

  /** `xl create` of what Sojourn has: refused where the domain is not, and beside it where it is. */
  async #byHand({ source, destination }: { source: XenHost; destination: XenHost }): Promise<Check[]> {
    const { id } = await this.#show(destination);
    const config = [
      ...['name = "byhand"', 'type = "pvh"', "memory = 80", 'kernel = "/lab/vmlinuz"'],
      `disk = [ "format=raw, vdev=xvda, access=rw, backendtype=phy, script=block-sojourn, target=${id}/root" ]`,
    ].join("\n");
    const said = await Promise.all(
      [source, destination].map(async (host) => {
        const { code, output } = await host.run(
          `cat >/tmp/byhand.cfg <<'END'\n${config}\nEND\nxl create /tmp/byhand.cfg`,
        );
        return `${code}: ${output}`;
      }),
    );
    return [
      check("xl by hand where the domain is not", /^[1-9].*xl may not/s.test(said[0]!), said[0]!),
      check("xl by hand beside the domain", /^[1-9].*is in use by domain/s.test(said[1]!), said[1]!),
    ];
  }

  #show(host: XenHost): Promise<DomainDetail> {
    return host.call("show", { domain: DOMAIN });
  }

  /** What every Xen of the cluster says it runs. */
  async #domains(): Promise<string[]> {
    const lists = await Promise.all(
      this.#cluster.hosts.map(async (host) => {
        const text = await host.must("xl list | tail -n +3");
        return text
          .split("\n")
          .flatMap((line) => (line === "" ? [] : [`${host.name}:${line.split(/\s+/)[0]}`]));
      }),
    );
    return lists.flat();
  }

  /** What the adapter at the source noted of the last stream. */
  async #figures(source: XenHost): Promise<Record<string, unknown>> {
    const log = await daemonLog(source, 200);
    const line = log.split("\n").findLast((text) => text.includes('"the stream of xl is whole"'));
    return line === undefined ? {} : (JSON.parse(line) as Record<string, unknown>);
  }

  async #asks(host: XenHost, word: string, answer: string): Promise<GuestLine> {
    const after = Number(await host.must(`cat ${CONSOLES} 2>/dev/null | wc -l`));
    const tty = `xenstore-read /local/domain/$(xl domid ${DOMAIN})/console/tty`;
    await host.must(`echo ${word} >"$(${tty})"`);
    return this.#hears(host, answer, { after });
  }

  /** The guest's next line of that type on its console. */
  async #hears(host: XenHost, type: string, { after }: { after: number }): Promise<GuestLine> {
    const deadline = performance.now() + GUEST_TIMEOUT_MS;
    for (;;) {
      const text = await host.must(`cat ${CONSOLES} 2>/dev/null | tail -n +${after + 1} || true`);
      const lines = text.split("\n").slice(0, -1);
      const found = lines.flatMap(lineOf).find((line) => line.type === type);
      if (found !== undefined) return found;
      if (performance.now() > deadline)
        throw new Error(`the guest does not say "${type}": ${text.slice(-1000)}`);
      await pause(POLL_MS);
    }
  }
}

/** None for what the kernel says. */
function lineOf(text: string): GuestLine[] {
  const at = text.indexOf('{"type":');
  if (at < 0) return [];
  try {
    return [JSON.parse(text.slice(at)) as GuestLine];
  } catch {
    return [];
  }
}
