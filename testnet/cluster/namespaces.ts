/**
 * A network namespace for each host of a cluster, all on one bridge in a namespace of its own, and cuts between any of
 * them, one-sided ones, too. Needs root and `ip`.
 *
 *   host ── veth ── bridge ── veth ── host
 *
 * A cut is silent, as that of a cable behind a switch: whoever is cut from a host has a wrong hardware address for it,
 * and what it sends reaches nobody.
 */

import { execFileSync } from "node:child_process";
import type { Place } from "../cluster.ts";

const SUBNET = "10.213.77";
/** Locally administered, and nobody's. */
const NOWHERE = "02:00:00:00:00:01";

/** What `from` sends to `to` is lost. */
export type Cut = { from: string; to: string };

export class Namespaces {
  readonly #prefix = `sj${process.pid}`;
  readonly #names: readonly string[];

  constructor(names: readonly string[]) {
    this.#names = names;
  }

  get #hub(): string {
    return `${this.#prefix}-hub`;
  }

  start(): void {
    ip(["netns", "add", this.#hub]);
    inside(this.#hub, ["link add bridge type bridge", "link set bridge up"]);
    for (const [index, name] of this.#names.entries()) {
      const namespace = this.#of(name);
      ip(["netns", "add", namespace]);
      inside(this.#hub, [
        `link add p${index} type veth peer name eth0 netns ${namespace}`,
        `link set p${index} master bridge up`,
      ]);
      inside(namespace, [
        "link set lo up",
        `addr add ${this.#address(name)}/24 dev eth0`,
        "link set eth0 up",
      ]);
    }
  }

  place(name: string): Place {
    return { ip: this.#address(name), within: ["ip", "netns", "exec", this.#of(name)] };
  }

  cut(cuts: readonly Cut[]): void {
    this.#change(cuts, (address) => `neigh replace ${address} lladdr ${NOWHERE} dev eth0 nud permanent`);
  }

  heal(cuts: readonly Cut[]): void {
    this.#change(cuts, (address) => `neigh del ${address} dev eth0`);
  }

  stop(): void {
    for (const namespace of [...this.#names.map((name) => this.#of(name)), this.#hub]) {
      try {
        ip(["netns", "del", namespace]);
      } catch {
        // It was never made.
      }
    }
  }

  #change(cuts: readonly Cut[], command: (address: string) => string): void {
    for (const name of this.#names) {
      const commands = cuts.filter(({ from }) => from === name).map(({ to }) => command(this.#address(to)));
      if (commands.length > 0) inside(this.#of(name), commands);
    }
  }

  #of(name: string): string {
    return `${this.#prefix}-${name}`;
  }

  #address(name: string): string {
    return `${SUBNET}.${this.#names.indexOf(name) + 1}`;
  }
}

function ip(args: readonly string[], input = ""): void {
  execFileSync("ip", args, { stdio: ["pipe", "ignore", "pipe"], input });
}

function inside(namespace: string, commands: readonly string[]): void {
  ip(["-n", namespace, "-batch", "-"], `${commands.join("\n")}\n`);
}
