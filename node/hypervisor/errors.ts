/** Failures that a hypervisor's caller must expect. Match on `code`, never on the text. */
export type HypervisorErrorDetail =
  /** A domain of this id has a process already. */
  | { code: "HYPERVISOR_DOMAIN_EXISTS"; domain: string }
  /** No process of this domain can be reached. */
  | { code: "HYPERVISOR_NO_SUCH_DOMAIN"; domain: string }
  /** The domain is not in a state that allows this. */
  | { code: "HYPERVISOR_BAD_STATE"; operation: string; state: string }
  /** The specification cannot be met: its id, memory, vbds or settings. */
  | { code: "HYPERVISOR_BAD_SPEC"; field: string; reason: string }
  /** What came in is not a whole state of this domain. */
  | { code: "HYPERVISOR_BAD_STREAM"; reason: string }
  /** The domain's process ended, or did not begin. */
  | { code: "HYPERVISOR_PROCESS_FAILED"; reason: string };

export type HypervisorErrorCode = HypervisorErrorDetail["code"];

export class HypervisorError extends Error {
  readonly code: HypervisorErrorCode;
  readonly detail: HypervisorErrorDetail;

  constructor(detail: HypervisorErrorDetail, options?: ErrorOptions) {
    const { code, ...fields } = detail;
    super(`${code} ${JSON.stringify(fields)}`, options);
    this.name = "HypervisorError";
    this.code = code;
    this.detail = detail;
  }
}

export function badStream(reason: string): HypervisorError {
  return new HypervisorError({ code: "HYPERVISOR_BAD_STREAM", reason });
}

export function badSpec(field: string, reason: string): HypervisorError {
  return new HypervisorError({ code: "HYPERVISOR_BAD_SPEC", field, reason });
}
