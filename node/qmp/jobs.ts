/**
 * QEMU's jobs (`blockdev-backup` and its like): begun by a command, over when an event says so.
 *
 *     created ▶ running ▶ (paused, ready …) ▶ waiting ▶ pending ▶ concluded ▶ null
 *                            └──────────── aborting ────────────────▲
 *
 * A job that dismisses itself leaves nothing behind to ask for its error. So the jobs here are begun with
 * `auto-dismiss: false`, are asked once they have concluded, and are dismissed then.
 */

import type { BackupArguments } from "./commands.ts";
import { QmpError } from "./errors.ts";
import type { QmpClient } from "./qmp-client.ts";

export type RunningJob = {
  readonly id: string;
  /** Completes when the job did its work. Rejects with QMP_JOB_FAILED, QMP_CLOSED. */
  readonly done: Promise<void>;
  /** The job ends without its work; completes when it has ended, also if it was over before. */
  cancel(): Promise<void>;
};

/** Begins a backup from node to node. Throws QMP_ERROR when QEMU does not begin it. */
export async function startBackup(
  qmp: QmpClient,
  options: Omit<BackupArguments, "auto-dismiss">,
): Promise<RunningJob> {
  const id = options["job-id"];
  const job = watchJob(qmp, id);
  try {
    await qmp.execute("blockdev-backup", { ...options, "auto-dismiss": false });
  } catch (error) {
    job.forget();
    throw error;
  }
  return job.running;
}

/** To be called before the command that creates the job. */
export function watchJob(qmp: QmpClient, id: string): { running: RunningJob; forget(): void } {
  const { promise: concluded, resolve, reject } = Promise.withResolvers<void>();
  const remove = qmp.onEvent(({ event, data }) => {
    if (event === "JOB_STATUS_CHANGE" && data.id === id && data.status === "concluded") resolve();
  });
  const removeLoss = qmp.onLoss(reject);
  const over = (): void => {
    remove();
    removeLoss();
  };
  const done = concluded.finally(over).then(() => dismiss(qmp, id));
  // Whoever cancels, or has lost the connection, may not wait for it.
  done.catch(() => {});
  const cancel = async (): Promise<void> => {
    // A job that has just ended is not there any more to be cancelled, which is as well.
    await qmp.execute("job-cancel", { id }).catch(ignoreRefusal);
    await done.catch((error: unknown) => {
      if (!(error instanceof QmpError) || error.code !== "QMP_JOB_FAILED") throw error;
    });
  };
  return { running: { id, done, cancel }, forget: () => reject(new Error(`job ${id} was not begun`)) };
}

async function dismiss(qmp: QmpClient, id: string): Promise<void> {
  const job = (await qmp.execute("query-jobs")).find((candidate) => candidate.id === id);
  if (job === undefined) return;
  await qmp.execute("job-dismiss", { id });
  if (job.error !== undefined) {
    throw new QmpError({ code: "QMP_JOB_FAILED", job: id, description: job.error });
  }
}

function ignoreRefusal(error: unknown): void {
  if (!(error instanceof QmpError) || error.code !== "QMP_ERROR") throw error;
}
