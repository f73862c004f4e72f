// Signing a device in with a QR code (MSC4108), by the SDK's implementation of both devices. A browser shows the code
// and never scans one. This file says how far it is, and why it ended, in terms of the person.
import { createClient, type MatrixClient } from "matrix-js-sdk";
import { OAuth2 } from "matrix-js-sdk/lib/oauth";
import { ClientRendezvousFailureReason as ClientReason, linkNewDeviceByGeneratingQR, MSC4108FailureReason as Reason, type MSC4108SignInWithQR, RendezvousError, signInByGeneratingQR } from "matrix-js-sdk/lib/rendezvous";
import { clientId, homeserver, LoginError } from "./place";
import { adopt, metadata } from "./oauth";
import type { Secrets } from "./security";

/** Why it ended. "number": what the two devices would compare is not the same, so somebody else may be between them. */
export type QrProblem = "expired" | "declined" | "number" | "otherServer" | "unsupported" | "offline" | "failed";

export class QrError extends Error {
    constructor(
        readonly kind: QrProblem,
        cause?: unknown,
    ) {
        super(kind, { cause });
    }
}

const problems: Partial<Record<string, QrProblem>> = {
    [ClientReason.Expired]: "expired",
    [Reason.AuthorizationExpired]: "expired",
    [Reason.UserCancelled]: "declined",
    [ClientReason.UserDeclined]: "declined",
    [ClientReason.InsecureChannelDetected]: "number",
    [Reason.UnsupportedProtocol]: "unsupported",
    [ClientReason.HomeserverLacksSupport]: "unsupported",
};

/** problemOf finds the reason: the first that was told counts, since what fails afterwards fails because of it. */
function problemOf(told: string | undefined, e: unknown): QrProblem {
    if (e instanceof QrError) return e.kind;
    if (e instanceof LoginError) return e.kind === "offline" ? "offline" : "failed";
    const reason = told ?? (e instanceof RendezvousError ? e.code : undefined);
    if (reason === ClientReason.Unknown) return "declined"; // the other device took the code away
    if (reason) return problems[reason] ?? "failed";
    return e instanceof TypeError ? "offline" : "failed"; // what fetch throws without a network
}

/** Meeting is one code, from its making to its end. */
abstract class Meeting {
    protected flow: MSC4108SignInWithQR | undefined;
    private readonly over = new AbortController();
    private told: string | undefined;

    protected abstract begin(told: (reason: string) => void, signal: AbortSignal): Promise<MSC4108SignInWithQR>;

    get ended(): boolean {
        return this.over.signal.aborted;
    }

    /** open makes the code. Errors of this and all others: QrError. */
    open(): Promise<Uint8Array> {
        return this.step(async () => {
            this.flow = await this.begin((reason) => (this.told ??= reason), this.over.signal);
            if (!this.flow.code) throw new QrError("failed");
            return this.flow.code;
        });
    }

    /** number is what the device that scanned the code shows, once it did. */
    get number(): string {
        return this.flow?.checkCode ?? "";
    }

    /** cancel takes the code away: whoever scans it later finds nothing. */
    cancel(): void {
        this.over.abort();
    }

    protected async step<T>(run: () => Promise<T>): Promise<T> {
        try {
            return await run();
        } catch (e) {
            const kind = problemOf(this.told, e);
            this.cancel();
            throw e instanceof QrError ? e : new QrError(kind, e);
        }
    }
}

/** Linking shows a code on a device that is signed in, for one that is not. */
export class Linking extends Meeting {
    private accepted = false;

    constructor(private readonly client: MatrixClient) {
        super();
    }

    protected begin(told: (reason: string) => void, signal: AbortSignal): Promise<MSC4108SignInWithQR> {
        return linkNewDeviceByGeneratingQR(this.client, told, signal);
    }

    /**
     * scanned waits for the other device and gives the page on which the person agrees. Only the code for that page is
     * taken from what the other device says: the page itself is this server's, at the address that the person uses.
     */
    scanned(): Promise<string> {
        return this.step(async () => {
            await this.flow!.negotiateProtocols();
            const { verificationUri } = await this.flow!.deviceAuthorizationGrant();
            return linkPage(verificationUri);
        });
    }

    /** share lets the other device go on, waits until it is signed in, and hands it the keys. */
    share(): Promise<void> {
        return this.step(async () => {
            this.accepted = true;
            await this.flow!.shareSecrets();
        });
    }

    override cancel(): void {
        const flow = this.flow;
        // The other device is told while it listens, and then has to find what it was told.
        if (!this.ended && flow && flow.checkCode && !this.accepted) void flow.declineLoginOnExistingDevice().then(() => setTimeout(() => super.cancel(), 10_000), () => super.cancel());
        else super.cancel();
    }
}

/** linkPage is the page of this server where a device with the code of an address is let in. */
export function linkPage(uri: string | undefined): string {
    let code: string | null = null;
    try {
        code = new URL(uri ?? "").searchParams.get("user_code");
    } catch {
        /* without a code it is typed on the page */
    }
    return code ? `/link?${new URLSearchParams({ user_code: code.slice(0, 64) }).toString()}` : "/link";
}

/** Joining shows a code on a device that is not signed in, for one that is. */
export class Joining extends Meeting {
    private deviceId = "";

    protected begin(told: (reason: string) => void, signal: AbortSignal): Promise<MSC4108SignInWithQR> {
        return signInByGeneratingQR(createClient({ baseUrl: homeserver }), told, signal);
    }

    /** scanned waits for the other device. */
    scanned(): Promise<void> {
        return this.step(async () => {
            const { serverName } = await this.flow!.negotiateProtocols();
            const here = await serverNameHere();
            if (serverName !== here) throw new QrError("otherServer", `${serverName} is not ${here}`);
        });
    }

    /** ask begins the sign-in and gives the code that the other device's page may ask for. */
    ask(): Promise<string> {
        return this.step(async () => {
            const meta = await metadata();
            this.deviceId = new OAuth2(meta, { clientId }).context.deviceId;
            const { userCode } = await this.flow!.deviceAuthorizationGrant({ metadata: meta, clientId, deviceId: this.deviceId });
            return userCode ?? "";
        });
    }

    /** finish waits until the person agreed on the other device, and keeps the session. Without secrets the device is confirmed later, like any other. */
    finish(): Promise<Secrets | undefined> {
        return this.step(async () => {
            const tokens = await this.flow!.completeLoginOnNewDevice({ clientId });
            if (!tokens) throw new QrError("failed");
            if (this.ended) {
                // Given up while the SDK still asked: nobody uses this device.
                await fetch(`${homeserver}/_matrix/client/v3/logout`, { method: "POST", headers: { authorization: `Bearer ${tokens.access_token}` } });
                throw new QrError("declined");
            }
            await adopt(tokens);
            try {
                // The SDK's type has lost what is in it.
                const secrets = (await this.flow!.shareSecrets()).secrets as Secrets | undefined;
                return secrets ? { cross_signing: secrets.cross_signing, ...(secrets.backup ? { backup: secrets.backup } : {}) } : undefined;
            } catch (e) {
                console.warn("the keys did not come along", e);
                return undefined;
            } finally {
                this.cancel();
            }
        });
    }
}

async function serverNameHere(): Promise<string> {
    const res = await fetch("/api/setup");
    const { server_name } = (await res.json()) as { server_name?: string };
    if (!server_name) throw new QrError("failed", "the server does not say its name");
    return server_name;
}
