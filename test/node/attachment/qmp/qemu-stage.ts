/** Two vbds of a real QEMU, which has them on our exports when it starts, each under an iothread of its own. */

import { join } from "node:path";
import { QmpAttachment, type QmpAttachmentOptions } from "../../../../node/attachment/qmp/qmp-attachment.ts";
import { createLog } from "../../../../node/log.ts";
import type { QmpClient } from "../../../../node/qmp/qmp-client.ts";
import { QmpConnections } from "../../../../node/qmp/qmp-connections.ts";
import { nativeOptions, startBlockdevs, upperOptions } from "../../../../node/qmp/vbd-nodes.ts";
import type { Guest, Incoming } from "../../../contract/attachment.contract.ts";
import { type Qemu, QemuFolder } from "../../qmp/qemu.ts";
import { AttachmentFolder } from "../attachment-folder.ts";

export class QemuStage {
  readonly qemus = new QemuFolder();
  readonly folder = new AttachmentFolder(this.qemus.path);
  readonly qmpPath = join(this.qemus.path, "qmp");
  connections = new QmpConnections();
  #life = newLife();
  readonly warnings: string[] = [];
  qemu: Qemu | undefined;

  options(incoming?: Incoming): QmpAttachmentOptions {
    return {
      ...this.folder.options(incoming),
      connections: this.#reachable(),
      qmpPath: this.qmpPath,
      nbdSocketPath: this.folder.nbdSocketPath,
      socketFolder: this.qemus.path,
      log: createLog({ level: "warn", sink: (line) => this.warnings.push(line) }),
    };
  }

  /** `native`: as somebody else would start it, without us. */
  async startQemu({ native = false } = {}): Promise<void> {
    const { vbds, nbdSocketPath: socketPath } = this.folder;
    const nodes = native
      ? vbds.flatMap(({ path }, index) => [
          nativeOptions(`disk${index}`, { path, isDevice: false }),
          upperOptions(`vbd${index}`, `disk${index}`),
        ])
      : startBlockdevs(vbds.map(({ exportName }) => ({ socketPath, exportName })));
    const args = [
      ...vbds.flatMap((_, index) => ["-object", `iothread,id=thread${index}`]),
      ...nodes.flatMap((node) => ["-blockdev", JSON.stringify(node)]),
      ...vbds.flatMap((_, index) => [
        "-device",
        `virtio-blk-pci,id=vbd${index}-device,drive=vbd${index},iothread=thread${index}`,
      ]),
    ];
    this.qemu = await this.qemus.start(args, { qmpPath: this.qmpPath });
  }

  /**
   * The attachment before is left as a kill of its process leaves it: without its connections, and never able to
   * do anything again.
   */
  async restartDaemon(): Promise<QmpAttachment> {
    this.#life.isDead = true;
    this.#life = newLife();
    const before = this.connections;
    this.connections = new QmpConnections();
    // There is none any more where QEMU was killed.
    await before.acquire(this.qmpPath).then(
      ({ client }) => client.close(),
      () => undefined,
    );
    await this.folder.restart();
    return QmpAttachment.open(this.options());
  }

  /** Nothing is written in it yet, and everything is known. */
  beginGeneration(): Promise<void> {
    return this.folder.beginLogs();
  }

  /** The daemon that is open, or is opened next, is killed when it sends QEMU its command number `commands`. */
  dieAfter(commands: number): Promise<void> {
    this.#life.commandsLeft = commands;
    return this.#life.died.promise;
  }

  #reachable(): Pick<QmpConnections, "acquire"> {
    const { connections } = this;
    const life = this.#life;
    const never = new Promise<never>(() => {});
    return {
      acquire: async (path) => {
        const lease = life.isDead ? await never : await connections.acquire(path);
        const execute = (...request: Parameters<QmpClient["execute"]>): Promise<unknown> => {
          if (life.isDead) return never;
          if (--life.commandsLeft > 0) return lease.client.execute(...request);
          life.isDead = true;
          life.died.resolve();
          return never;
        };
        const client = new Proxy(lease.client, {
          get: (target, name) => {
            if (name === "execute") return execute;
            const value: unknown = Reflect.get(target, name, target);
            return typeof value === "function" ? value.bind(target) : value;
          },
        });
        return { client, release: () => lease.release() };
      },
    };
  }

  /** Begins an operation and does not wait for its end. */
  async submit(vbd: number, command: string): Promise<void> {
    const lease = await this.connections.acquire(this.qmpPath);
    const line = `qemu-io -d /machine/peripheral/vbd${vbd}-device/virtio-backend "${command}"`;
    const refusal = await lease.client.execute("human-monitor-command", { "command-line": line });
    lease.release();
    if (refusal.trim() !== "") throw new Error(refusal);
  }

  async io(vbd: number, command: string): Promise<string> {
    const lease = await this.connections.acquire(this.qemu!.qmpPath);
    try {
      const said = await this.qemu!.io(lease.client, `vbd${vbd}-device`, command);
      if (/failed: /.test(said)) throw new Error(said);
      return said;
    } finally {
      lease.release();
    }
  }

  async remove(): Promise<void> {
    await this.qemus.remove();
    await this.folder.end();
  }
}

type Life = { isDead: boolean; commandsLeft: number; died: PromiseWithResolvers<void> };

function newLife(): Life {
  return { isDead: false, commandsLeft: Infinity, died: Promise.withResolvers() };
}

export function qemuGuest(stage: QemuStage): Guest {
  return {
    write: async (vbd, offset, length, byte) =>
      void (await stage.io(vbd, `write -P ${byte} ${offset} ${length}`)),
    zero: async (vbd, offset, length) => void (await stage.io(vbd, `write -z ${offset} ${length}`)),
    discard: async (vbd, offset, length) => void (await stage.io(vbd, `discard ${offset} ${length}`)),
    holds: async (vbd, offset, length, byte) =>
      !(await stage.io(vbd, `read -P ${byte} ${offset} ${length}`)).includes("verification failed"),
  };
}
