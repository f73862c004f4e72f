// Keys, as people meet them: save the recovery key, confirm a new device, compare emoji, start anew.
import { useCallback, useEffect, useState } from "react";
import type { Room } from "matrix-js-sdk";
import { CryptoEvent, type GeneratedSecretStorageKey, type ShowSasCallbacks, VerificationPhase, type VerificationRequest, VerificationRequestEvent, type Verifier, VerifierEvent } from "matrix-js-sdk/lib/crypto-api";
import { Banner, Button, Confirm, CopyButton, Dialog, ErrorNote, Icon, Spinner, TextField, toast } from "../design";
import { t } from "../i18n";
import { IncompleteRecovery, ResetRefused, WrongRecoveryKey } from "../session/security";
import { nameOf, useChat, useRefresh, useSecurity } from "./context";
import { names } from "./format";
import { save } from "./media";
import { permission, turnOn } from "./notify";

export type SecurityDialog = "save" | "confirm" | "reset";

/** SecurityPrompt is the gentle reminder above the list of chats. */
export function SecurityPrompt({ onOpen }: { onOpen: (d: SecurityDialog) => void }) {
    const { phase } = useSecurity();
    const [later, setLater] = useState(() => Number(localStorage.getItem("hf.saveKeyLater") ?? 0));
    if (phase === "confirm")
        return (
            <Banner
                icon="shield"
                kind="warn"
                role="status"
                action={
                    <Button onPress={() => onOpen("confirm")} data-testid="confirm-device">
                        {t("security.confirm.short")}
                    </Button>
                }
            >
                {t("security.confirm.prompt")}
            </Banner>
        );
    if (phase === "saveKey" && Date.now() > later)
        return (
            <div className="save-key" role="status" data-testid="save-key-prompt">
                <p>
                    <Icon name="key" />
                    <span>{t("security.save.prompt")}</span>
                </p>
                <div>
                    <Button
                        look="quiet"
                        onPress={() => {
                            const until = Date.now() + 3 * 86_400_000;
                            localStorage.setItem("hf.saveKeyLater", String(until));
                            setLater(until);
                        }}
                    >
                        {t("security.save.later")}
                    </Button>
                    <Button onPress={() => onOpen("save")} data-testid="save-key">
                        {t("security.save.do")}
                    </Button>
                </div>
            </div>
        );
    return phase === "checking" ? null : <NotifyPrompt />;
}

// NotifyPrompt offers notifications once; browsers want a click before they ask.
function NotifyPrompt() {
    const [asked, setAsked] = useState(() => permission() !== "default" || localStorage.getItem("hf.notifyAsked") !== null);
    if (asked) return null;
    const answer = (on: boolean) => {
        localStorage.setItem("hf.notifyAsked", "yes");
        setAsked(true);
        if (on) void turnOn(true);
    };
    return (
        <div className="save-key" role="status" data-testid="notify-prompt">
            <p>
                <Icon name="bell" />
                <span>{t("notify.prompt")}</span>
            </p>
            <div>
                <Button look="quiet" onPress={() => answer(false)}>
                    {t("notify.no")}
                </Button>
                <Button onPress={() => answer(true)}>{t("notify.yes")}</Button>
            </div>
        </div>
    );
}

/** ChangedKeys tells when somebody in a chat has new keys: they started anew, or somebody else took their place. */
export function ChangedKeys({ room }: { room: Room }) {
    const { client } = useChat();
    const [changed, setChanged] = useState<string[]>([]);
    const n = useRefresh(client, [CryptoEvent.UserTrustStatusChanged]);
    const joined = room.getJoinedMemberCount();
    useEffect(() => {
        const crypto = client.getCrypto();
        if (!crypto || joined > mostChecked) return;
        let gone = false;
        const others = room.getJoinedMembers().filter((m) => m.userId !== client.getUserId());
        void Promise.all(others.map(async ({ userId }) => ((await crypto.getUserVerificationStatus(userId)).needsUserApproval ? userId : undefined))).then(
            (all) => gone || setChanged(all.filter((u) => u !== undefined)),
            () => undefined,
        );
        return () => {
            gone = true;
        };
    }, [client, room, joined, n]);
    if (!changed.length) return null;
    return (
        <Banner
            icon="shield"
            kind="warn"
            role="status"
            action={
                <Button look="plain" onPress={() => void Promise.all(changed.map((u) => client.getCrypto()!.pinCurrentUserIdentity(u))).then(() => setChanged([]))}>
                    {t("security.changed.ok")}
                </Button>
            }
        >
            {t("security.changed.text", { count: changed.length, names: names(changed.map((u) => nameOf(room.getMember(u), u))) })}
        </Banner>
    );
}

const mostChecked = 100;

/** SaveKey shows a new recovery key and lets it be proven that it was kept. */
export function SaveKey({ onClose }: { onClose: () => void }) {
    const { security, client } = useChat();
    const [key, setKey] = useState<GeneratedSecretStorageKey>();
    const [step, setStep] = useState<"show" | "type">("show");
    const [kept, setKept] = useState(false);
    const [typed, setTyped] = useState("");
    const [busy, setBusy] = useState(false);
    const [error, setError] = useState<string>();
    useEffect(() => {
        let gone = false;
        void security.newRecoveryKey().then((k) => gone || setKey(k));
        return () => {
            gone = true;
        };
    }, [security]);
    const text = key?.encodedPrivateKey ?? "";
    const finish = async () => {
        if (typed.replaceAll(/\s/g, "") !== text.replaceAll(/\s/g, "") && !kept) return setError(t("security.save.differs"));
        setBusy(true);
        setError(undefined);
        try {
            await security.saveRecoveryKey(key!);
            toast(t("security.save.saved"));
            onClose();
        } catch (e) {
            console.error(e);
            setError(t("settings.notSaved"));
            setBusy(false);
        }
    };
    const download = () => {
        const file = t("security.save.file", { user: client.getSafeUserId(), server: location.host, key: text });
        save(new Blob([file], { type: "text/plain" }), t("security.save.fileName", { user: client.getUserIdLocalpart() ?? "" }));
        setKept(true);
    };
    return (
        <Dialog title={t("security.save.title")} isOpen onClose={onClose} data-testid="save-key-dialog">
            {!key ? (
                <Spinner />
            ) : step === "show" ? (
                <>
                    <p>{t("security.save.text")}</p>
                    <code className="hf-code recovery-key" data-testid="recovery-key">
                        {text}
                    </code>
                    <div className="hf-actions">
                        <CopyButton text={text} label={t("security.save.copy")} />
                        <Button look="plain" icon="download" onPress={download} data-testid="recovery-key-download">
                            {t("security.save.download")}
                        </Button>
                    </div>
                    <p className="hf-note hf-note--warn">{t("security.save.warning")}</p>
                    <ErrorNote>{error}</ErrorNote>
                    <div className="hf-actions">
                        {kept ? (
                            <Button isPending={busy} onPress={() => void finish()} data-testid="recovery-key-done">
                                {t("security.save.kept")}
                            </Button>
                        ) : (
                            <Button onPress={() => setStep("type")} data-testid="recovery-key-next">
                                {t("security.save.wrote")}
                            </Button>
                        )}
                    </div>
                </>
            ) : (
                <form
                    onSubmit={(e) => {
                        e.preventDefault();
                        void finish();
                    }}
                >
                    <p>{t("security.save.retype")}</p>
                    <TextField label={t("security.key")} value={typed} onChange={setTyped} multiline autoFocus spellCheck="false" autoComplete="off" error={error} data-testid="recovery-key-input" />
                    <div className="hf-actions">
                        <Button look="plain" onPress={() => setStep("show")}>
                            {t("security.save.again")}
                        </Button>
                        <Button type="submit" isPending={busy} isDisabled={!typed.trim()} data-testid="recovery-key-done">
                            {t("common.done")}
                        </Button>
                    </div>
                </form>
            )}
        </Dialog>
    );
}

/** ConfirmDevice lets a new device into the account: by recovery key or by another device. */
export function ConfirmDevice({ onClose, onReset }: { onClose: () => void; onReset: () => void }) {
    const { security } = useChat();
    const state = useSecurity();
    const [key, setKey] = useState("");
    const [busy, setBusy] = useState(false);
    const [error, setError] = useState<string>();
    const recover = async () => {
        setBusy(true);
        setError(undefined);
        try {
            await security.recover(key.trim());
            toast(t("security.confirm.done"));
            onClose();
        } catch (e) {
            console.warn(e);
            setError(e instanceof WrongRecoveryKey ? t("security.confirm.wrong") : e instanceof IncompleteRecovery ? t("security.confirm.incomplete") : t("security.confirm.failed"));
            setBusy(false);
        }
    };
    return (
        <Dialog title={t("security.confirm.title")} isOpen onClose={onClose} data-testid="confirm-dialog">
            <p>{t("security.confirm.text")}</p>
            {state.hasOtherDevice && (
                <Button
                    wide
                    icon="device"
                    look={state.hasRecoveryKey ? "plain" : "main"}
                    onPress={() => {
                        onClose();
                        void security.askOtherDevice().catch(() => toast(t("security.confirm.failed")));
                    }}
                    data-testid="confirm-by-device"
                >
                    {t("security.confirm.byDevice")}
                </Button>
            )}
            {state.hasRecoveryKey ? (
                <form
                    onSubmit={(e) => {
                        e.preventDefault();
                        void recover();
                    }}
                >
                    <TextField label={t("security.key")} hint={t("security.keyHint")} value={key} onChange={setKey} multiline autoFocus autoComplete="off" spellCheck="false" error={error} data-testid="recovery-key-input" />
                    <div className="hf-actions">
                        <Button type="submit" isPending={busy} isDisabled={!key.trim()} data-testid="confirm-by-key">
                            {t("security.confirm.do")}
                        </Button>
                    </div>
                </form>
            ) : (
                !state.hasOtherDevice && <p className="hf-note">{t("security.confirm.noWay")}</p>
            )}
            <Button look="quiet" onPress={onReset}>
                {t("security.reset.link")}
            </Button>
        </Dialog>
    );
}

/** Reset gives the account new keys, after a clear warning. */
export function Reset({ onClose }: { onClose: () => void }) {
    const { security } = useChat();
    const { approvalUrl } = useSecurity();
    return (
        <>
            <Confirm
                title={t("security.reset.title")}
                yes={t("security.reset.do")}
                danger
                isOpen
                onClose={onClose}
                onYes={async () => {
                    try {
                        await security.reset();
                        toast(t("security.reset.done"));
                    } catch (e) {
                        if (e instanceof ResetRefused) return;
                        console.error(e);
                        throw new Error(t("security.reset.failed"), { cause: e });
                    }
                }}
            >
                {t("security.reset.text")}
            </Confirm>
            {approvalUrl && (
                <Dialog title={t("security.reset.approveTitle")} isOpen onClose={() => security.refuse()} data-testid="approve-dialog">
                    <p>{t("security.reset.approveText")}</p>
                    <a className="hf-button hf-button--plain" href={approvalUrl} target="_blank" rel="noopener noreferrer">
                        {t("security.reset.approveOpen")}
                    </a>
                    <Button onPress={() => security.approve()} data-testid="approved">
                        {t("security.reset.approved")}
                    </Button>
                </Dialog>
            )}
        </>
    );
}

/** Verification compares emoji with another device or person; it opens by itself when somebody asks. */
export function Verification() {
    const { security } = useChat();
    const { request } = useSecurity();
    if (!request) return null;
    return <Comparing key={request.transactionId ?? "new"} request={request} onClose={() => security.closeRequest()} />;
}

function Comparing({ request, onClose }: { request: VerificationRequest; onClose: () => void }) {
    const { client } = useChat();
    useRefresh(request, [VerificationRequestEvent.Change]);
    const [sas, setSas] = useState<ShowSasCallbacks>();
    const [said, setSaid] = useState(false);
    const { phase, verifier } = request;

    // Both sides may start; the one that asked does.
    useEffect(() => {
        if (phase !== VerificationPhase.Ready || !request.initiatedByMe) return;
        void request.startVerification("m.sas.v1").catch((e: unknown) => console.warn(e));
    }, [phase, request]);
    const follow = useCallback((v: Verifier) => {
        const show = (): void => setSas(v.getShowSasCallbacks() ?? undefined);
        v.on(VerifierEvent.ShowSas, show);
        show();
        void v.verify().catch((e: unknown) => console.warn("comparison ended", e));
        return () => void v.off(VerifierEvent.ShowSas, show);
    }, []);
    useEffect(() => (verifier ? follow(verifier) : undefined), [verifier, follow]);

    const who = request.isSelfVerification ? t("security.compare.ownDevice") : nameOf(client.getRoom(request.roomId ?? "")?.getMember(request.otherUserId), request.otherUserId);
    const cancel = () => {
        if (request.pending) void request.cancel().catch(() => undefined);
        onClose();
    };
    let body: React.ReactNode;
    if (phase === VerificationPhase.Cancelled)
        body = (
            <>
                <p>{request.cancellationCode === "m.timeout" ? t("security.compare.timeout") : request.cancellationCode === "m.mismatched_sas" ? t("security.compare.mismatch") : t("security.compare.cancelled")}</p>
                <div className="hf-actions">
                    <Button onPress={onClose}>{t("common.close")}</Button>
                </div>
            </>
        );
    else if (phase === VerificationPhase.Done)
        body = (
            <>
                <p className="hf-note hf-note--ok">{request.isSelfVerification ? t("security.compare.doneSelf") : t("security.compare.done", { who })}</p>
                <div className="hf-actions">
                    <Button onPress={onClose} data-testid="compare-close">
                        {t("common.done")}
                    </Button>
                </div>
            </>
        );
    else if (phase === VerificationPhase.Requested && !request.initiatedByMe)
        body = (
            <>
                <p>{request.isSelfVerification ? t("security.compare.askedSelf") : t("security.compare.asked", { who })}</p>
                <div className="hf-actions">
                    <Button look="plain" onPress={cancel}>
                        {t("security.compare.no")}
                    </Button>
                    <Button onPress={() => void request.accept().catch(() => undefined)} data-testid="compare-accept">
                        {t("security.compare.yes")}
                    </Button>
                </div>
            </>
        );
    else if (sas && !said)
        body = (
            <>
                <p>{t("security.compare.text")}</p>
                <ul className="sas" data-testid="sas">
                    {sas.sas.emoji?.map(([symbol, name], i) => (
                        <li key={i}>
                            <span aria-hidden="true">{symbol}</span>
                            {name}
                        </li>
                    ))}
                </ul>
                <div className="hf-actions">
                    <Button
                        look="plain"
                        onPress={() => {
                            sas.mismatch();
                        }}
                    >
                        {t("security.compare.differ")}
                    </Button>
                    <Button
                        onPress={() => {
                            setSaid(true);
                            void sas.confirm().catch((e: unknown) => console.warn(e));
                        }}
                        data-testid="compare-match"
                    >
                        {t("security.compare.match")}
                    </Button>
                </div>
            </>
        );
    else
        body = (
            <p role="status" className="busy">
                <Spinner /> {said ? t("security.compare.waitOther") : phase === VerificationPhase.Requested ? t("security.compare.waitAccept", { who }) : t("security.compare.waitEmoji")}
            </p>
        );
    return (
        <Dialog title={t("security.compare.title")} isOpen onClose={cancel} data-testid="compare-dialog">
            {body}
        </Dialog>
    );
}
