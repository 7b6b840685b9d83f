/**
 * Fault injection that ships: named points in a migration's course where a test, or an operator on a test
 * cluster, lets the daemon die, fail, or stand still. Crash safety that cannot be tried is a hope.
 *
 * Only a host whose configuration says `faults: true` can be armed. On every other one a point costs the test
 * of one boolean. A point's action happens once, then the point is disarmed.
 */
import { NodeError } from "./errors.ts";

/** Every point, with what has happened when it is reached. A new one is a new line. */
export const FAULT_POINTS = {
  "source-reconciling": "digests arrived on the hash rung and are about to be compared",
  "source-precopy": "a message of blocks is about to be read and sent in pre-copy",
  "source-memory-copy": "the hypervisor's stream is about to begin",
  "source-freezing": "the domain is frozen; its vbds are not fenced yet",
  "source-frozen": "the domain is frozen, its vbds are fenced and flushed; `prepare` was not sent",
  "source-before-handover-persist": "the destination is prepared; the handover is not in the journal",
  "source-after-handover-persist": "the handover is in the journal and was not sent",
  "source-handover-sent": "the handover was given to the network",
  "source-resumed": "the domain runs at the destination; its frozen remains are still here",
  "source-postcopy": "a message of blocks is about to be read and sent in post-copy",
  "source-completed": "the journal holds `completed`; the vbds are not a replica yet",
  "destination-receiving": "blocks arrived in pre-copy and are about to be written",
  "destination-before-prepared-persist":
    "memory, bitmaps and log are durable; `prepared` is not in the journal",
  "destination-after-prepared-persist": "`prepared` is in the journal and was not sent",
  "destination-prepared": "`prepared` was given to the network",
  "destination-handover-received": "the handover arrived; the journal does not say so yet",
  "destination-owner-persisted": "the journal makes this host the owner; the domain is still suspended",
  "destination-resumed": "the domain runs and `resumed` was given to the network",
  "destination-postcopy": "blocks arrived in post-copy and are about to be written",
  "destination-superseding-write": "a guest write over a missing block was issued and not acknowledged",
  "destination-before-synchronised-persist":
    "nothing is missing, all is flushed; the journal does not say so yet",
  restoring: "the daemon was started again and listens; it has not looked into its journal",
} as const;

export type FaultPoint = keyof typeof FAULT_POINTS;

/**
 * `kill`: SIGKILL for the whole daemon. `exit`: this process ends at once with FAULT_EXIT_CODE. `throw`:
 * FAULT_INJECTED. `stall`: the point completes `ms` later. `release`: at once; whoever stalls there goes on.
 */
export type FaultAction =
  | { type: "kill" }
  | { type: "exit" }
  | { type: "throw" }
  | { type: "stall"; ms: number }
  | { type: "release" };

/** `nth`: the action happens the nth time that the point is reached from now on. */
export type Fault = { point: FaultPoint; action: FaultAction; nth: number };

export const FAULT_EXIT_CODE = 70;

/** The environment's variable that arms points at start: comma-separated `name[:action[:nth]]`. */
export const FAULT_VARIABLE = "SOJOURN_FAULT";

export type FaultOptions = {
  /** The configuration's `faults`. */
  readonly enabled: boolean;
  /** What `kill` takes along, before this process: the daemon's other processes. Asked when it happens. */
  readonly pidsToKill?: () => readonly number[];
  /** Told before an action happens. */
  readonly onFault?: (fault: Fault) => void;
};

export class FaultPoints {
  readonly #enabled: boolean;
  readonly #options: FaultOptions;
  readonly #armed = new Map<FaultPoint, { fault: Fault; left: number }>();
  readonly #stalled = new Map<FaultPoint, Set<() => void>>();

  constructor(options: FaultOptions) {
    this.#enabled = options.enabled;
    this.#options = options;
  }

  /** Arms what the environment asks for. Throws FAULTS_DISABLED, USAGE. */
  static fromEnvironment(
    environment: Readonly<Record<string, string | undefined>>,
    options: FaultOptions,
  ): FaultPoints {
    const faults = new FaultPoints(options);
    const spec = environment[FAULT_VARIABLE];
    if (spec !== undefined && spec !== "") faults.arm(spec);
    return faults;
  }

  /** Comma-separated faults, as in `source-frozen:stall:500:2`. Throws FAULTS_DISABLED, USAGE; then none is armed. */
  arm(spec: string): readonly Fault[] {
    if (!this.#enabled) throw new NodeError("FAULTS_DISABLED", { spec });
    const faults = spec.split(",").map((text) => parseFault(text.trim()));
    for (const fault of faults) {
      if (fault.action.type === "release") this.#release(fault.point);
      else this.#armed.set(fault.point, { fault, left: fault.nth });
    }
    return faults;
  }

  armed(): readonly Fault[] {
    return [...this.#armed.values()].map(({ fault }) => fault);
  }

  /**
   * Called where `name` is reached; wait for what it returns, if anything. Nothing happens unless the host's
   * configuration allows faults.
   */
  point(name: FaultPoint): Promise<void> | undefined {
    return this.#enabled ? this.#reach(name) : undefined;
  }

  #reach(name: FaultPoint): Promise<void> | undefined {
    const armed = this.#armed.get(name);
    if (armed === undefined || --armed.left > 0) return undefined;
    this.#armed.delete(name);
    this.#options.onFault?.(armed.fault);
    return this.#act(armed.fault);
  }

  /** Rejects or resolves later, never throws: `point` has one way to fail. */
  async #act({ point, action }: Fault): Promise<void> {
    switch (action.type) {
      case "kill":
        for (const pid of this.#options.pidsToKill?.() ?? []) killIfThere(pid);
        process.kill(process.pid, "SIGKILL");
        // The signal may need a moment; nothing of ours runs meanwhile.
        return new Promise(() => {});
      case "exit":
        return process.exit(FAULT_EXIT_CODE);
      case "throw":
        throw new NodeError("FAULT_INJECTED", { point });
      case "stall":
        return this.#stall(point, action.ms);
      case "release":
        return;
    }
  }

  async #stall(point: FaultPoint, ms: number): Promise<void> {
    const stalled = this.#stalled.get(point) ?? new Set();
    this.#stalled.set(point, stalled);
    const { promise, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(resolve, ms);
    stalled.add(resolve);
    await promise;
    clearTimeout(timer);
    stalled.delete(resolve);
  }

  #release(point: FaultPoint): void {
    this.#armed.delete(point);
    for (const resolve of this.#stalled.get(point) ?? []) resolve();
  }
}

function killIfThere(pid: number): void {
  // 0 and negative ones mean process groups.
  if (!Number.isInteger(pid) || pid <= 1 || pid === process.pid) return;
  try {
    process.kill(pid, "SIGKILL");
  } catch (error) {
    if (!(error instanceof Error && "code" in error && error.code === "ESRCH")) throw error;
  }
}

/** `name[:kill|exit|throw[:nth]]`, `name:release` or `name:stall:ms[:nth]`; `kill` when no action is named. Throws USAGE. */
export function parseFault(text: string): Fault {
  const [name = "", type = "kill", ...rest] = text.split(":");
  if (!isFaultPoint(name)) {
    throw new NodeError("USAGE", {
      reason: `no fault point is called "${name}"; there are ${Object.keys(FAULT_POINTS).join(", ")}`,
    });
  }
  const ms = type === "stall" ? Number(rest.shift()) : 0;
  const nth = Number(rest.shift() ?? 1);
  if (!isAction(type) || rest.length > 0 || !isCount(nth, 1) || !isCount(ms, 0)) {
    const forms = "name[:kill|exit|throw[:nth]], name:release or name:stall:ms[:nth]";
    throw new NodeError("USAGE", { reason: `"${text}" is not a fault; write ${forms}` });
  }
  return { point: name, action: type === "stall" ? { type, ms } : { type }, nth };
}

function isAction(type: string): type is FaultAction["type"] {
  return ["kill", "exit", "throw", "stall", "release"].includes(type);
}

function isFaultPoint(name: string): name is FaultPoint {
  return Object.hasOwn(FAULT_POINTS, name);
}

function isCount(value: number, least: number): boolean {
  return Number.isSafeInteger(value) && value >= least && value < 2 ** 31;
}
