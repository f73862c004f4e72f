// Directories that people come from: how their last reading went, and the alarm that waits for an answer.
import { useState } from "react";
import { Banner, Button, Confirm, Dialog, Empty, ErrorNote, Switch, TextField, toast } from "../design";
import { t } from "../i18n";
import { api, messageOf } from "../setup/api";
import { date, useLoaded } from "./load";
import { SaveForm } from "./settings";

interface Settings {
    kind: string;
    urls: string[];
    base_dn: string;
    bind_dn: string;
    ca: string;
    user_filter: string;
    group_filter: string;
    everyone: boolean;
    names: boolean;
    pictures: boolean;
    mail: boolean;
    full_attr: string;
    mail_attr: string;
    picture_attr: string;
}

// What follows the directory, and the setting with the attribute that it comes from.
const following = [
    ["names", "full_attr"],
    ["pictures", "picture_attr"],
    ["mail", "mail_attr"],
] as const;

interface Directory {
    id: string;
    settings: Settings;
    synced?: string;
    people: number;
    accounts: number;
    made: string[];
    locked: string[];
    unlocked: string[];
    taken: string[];
    groups_renamed: string[];
    groups_taken: string[];
    mail_taken: string[];
    pictures_left: string[];
    alarm: boolean;
    error?: string;
    down?: string;
}

interface Tested {
    people: number;
    groups: number;
    first: { name: string; full_name: string; mail: string; picture: string; groups: string[] }[];
}

const blank: Settings = { kind: "ldap", urls: [], base_dn: "", bind_dn: "", ca: "", user_filter: "", group_filter: "", everyone: false, names: false, pictures: false, mail: false, full_attr: "", mail_attr: "", picture_attr: "" };

export function DirectoriesPage({ acts }: { acts: boolean }) {
    const { value: list, error, reload } = useLoaded<Directory[]>("/api/console/directories", 10);
    const [editing, setEditing] = useState<{ id: string; settings: Settings }>();
    const [removing, setRemoving] = useState<string>();
    const [approving, setApproving] = useState<Directory>();
    const [tested, setTested] = useState<Tested & { id: string }>();
    const [busy, setBusy] = useState<string>();
    const run = async (id: string, f: () => Promise<void>): Promise<void> => {
        setBusy(id);
        try {
            await f();
        } catch (e) {
            toast(messageOf(e));
        }
        setBusy(undefined);
        await reload();
    };
    const sync = async (id: string, anyway: boolean): Promise<void> => {
        await api("POST", `/api/console/directories/${id}/sync`, { anyway });
        const after = (await api<Directory[]>("GET", "/api/console/directories")).find((d) => d.id === id);
        if (!after?.alarm) toast(t("console.directories.synced", { name: id }));
    };
    const test = async (id: string): Promise<void> => {
        setTested({ id, ...(await api<Tested>("POST", `/api/console/directories/${id}/test`)) });
    };
    return (
        <>
            <div className="console-title">
                <h1>{t("console.directories.title")}</h1>
                {acts && (
                    <Button icon="add" onPress={() => setEditing({ id: "", settings: blank })} data-testid="directory-new">
                        {t("console.directories.new")}
                    </Button>
                )}
            </div>
            <p className="hf-hint">{t("console.directories.text")}</p>
            <ErrorNote>{error}</ErrorNote>
            {list?.length === 0 && <Empty icon="people" title={t("console.directories.none")} />}
            {(list ?? []).map((d) => (
                <section key={d.id} className="hf-card hf-card--wide" aria-label={d.id} data-testid={`directory-${d.id}`}>
                    <div className="console-title">
                        <h2>{d.id}</h2>
                        <span className="console-tags">{d.down ? <span className="hf-tag hf-tag--warn">{t("console.directories.down")}</span> : d.synced ? <span className="hf-tag hf-tag--ok">{t("console.directories.works")}</span> : <span className="hf-tag">{t("console.directories.unread")}</span>}</span>
                    </div>
                    <p className="hf-hint console-wrap">
                        {d.settings.urls.join(" ")} {d.settings.base_dn}
                    </p>
                    {d.alarm && (
                        <Banner icon="alert" kind="danger" role="alert" action={acts && <Button onPress={() => setApproving(d)}>{t("console.directories.look")}</Button>}>
                            {t("console.directories.alarm", { count: d.locked.length, accounts: String(d.accounts) })}
                        </Banner>
                    )}
                    {d.down && <p className="console-trouble">{d.down}</p>}
                    {d.error && !d.alarm && !d.down && <p className="console-trouble">{d.error}</p>}
                    <dl className="console-facts">
                        <div>
                            <dt>{t("console.directories.last")}</dt>
                            <dd>{date(d.synced)}</dd>
                        </div>
                        <div>
                            <dt>{t("console.directories.people")}</dt>
                            <dd>{t("console.directories.peopleOf", { people: String(d.people), accounts: String(d.accounts) })}</dd>
                        </div>
                        {(["made", "unlocked", "taken", "groups_renamed", "groups_taken", "mail_taken", "pictures_left"] as const).map(
                            (k) =>
                                d[k].length > 0 && (
                                    <div key={k}>
                                        <dt>{t(`console.directories.${k}`)}</dt>
                                        <dd>{d[k].join(", ")}</dd>
                                    </div>
                                ),
                        )}
                        {d.locked.length > 0 && !d.alarm && (
                            <div>
                                <dt>{t("console.directories.locked")}</dt>
                                <dd>{d.locked.join(", ")}</dd>
                            </div>
                        )}
                    </dl>
                    {acts && (
                        <div className="hf-actions">
                            <Button look="plain" icon="trash" onPress={() => setRemoving(d.id)}>
                                {t("console.directories.remove")}
                            </Button>
                            <Button look="plain" onPress={() => setEditing(d)}>
                                {t("console.directories.change")}
                            </Button>
                            <Button look="plain" onPress={() => void run(d.id, () => test(d.id))} isPending={busy === d.id} data-testid="directory-test">
                                {t("console.directories.test")}
                            </Button>
                            <Button onPress={() => void run(d.id, () => sync(d.id, false))} isPending={busy === d.id} data-testid="directory-sync">
                                {t("console.directories.sync")}
                            </Button>
                        </div>
                    )}
                </section>
            ))}
            {editing && (
                <Edit
                    id={editing.id}
                    settings={editing.settings}
                    onSaved={() => {
                        setEditing(undefined);
                        void reload();
                    }}
                    onClose={() => setEditing(undefined)}
                />
            )}
            {tested && <Result of={tested} onClose={() => setTested(undefined)} />}
            {approving && (
                <Confirm title={t("console.directories.approveTitle")} yes={t("console.directories.approve", { count: approving.locked.length })} danger isOpen onYes={() => run(approving.id, () => sync(approving.id, true))} onClose={() => setApproving(undefined)}>
                    {t("console.directories.approveText", { names: approving.locked.join(", ") })}
                </Confirm>
            )}
            {removing && (
                <Confirm
                    title={t("console.directories.removeTitle", { name: removing })}
                    yes={t("console.directories.remove")}
                    danger
                    isOpen
                    onYes={async () => {
                        await api("DELETE", `/api/console/directories/${removing}`);
                        await reload();
                    }}
                    onClose={() => setRemoving(undefined)}
                >
                    {t("console.directories.removeText")}
                </Confirm>
            )}
        </>
    );
}

/** What a test reading found: how many, and a few people with all that is read of them. */
function Result({ of, onClose }: { of: Tested & { id: string }; onClose: () => void }) {
    const none = t("console.directories.nothing");
    return (
        <Dialog title={of.id} isOpen onClose={onClose} wide>
            <p>{t("console.directories.tested", { people: String(of.people), groups: String(of.groups) })}</p>
            <div data-testid="directory-tested">
                {of.first.map((p) => (
                    <dl key={p.name} className="console-facts" aria-label={p.name}>
                        <div>
                            <dt>{p.name}</dt>
                            <dd>{p.full_name || none}</dd>
                        </div>
                        <div>
                            <dt>{t("console.directories.testMail")}</dt>
                            <dd>{p.mail || none}</dd>
                        </div>
                        <div>
                            <dt>{t("console.directories.testPicture")}</dt>
                            <dd>{p.picture || none}</dd>
                        </div>
                        <div>
                            <dt>{t("console.directories.testGroups")}</dt>
                            <dd>{p.groups.join(", ") || none}</dd>
                        </div>
                    </dl>
                ))}
            </div>
            <div className="hf-actions">
                <Button onPress={onClose}>{t("common.close")}</Button>
            </div>
        </Dialog>
    );
}

function Edit({ id: old, settings, onSaved, onClose }: { id: string; settings: Settings; onSaved: () => void; onClose: () => void }) {
    const [id, setID] = useState(old);
    const [s, setS] = useState(settings);
    const [urls, setURLs] = useState(settings.urls.join(" "));
    const [password, setPassword] = useState("");
    const text = (key: "base_dn" | "bind_dn" | "user_filter" | "group_filter") => (
        <TextField label={t(`console.directories.${key}`)} value={s[key]} onChange={(v) => setS({ ...s, [key]: v })} hint={key === "group_filter" ? undefined : t(`console.directories.${key}Hint`)} autoComplete="off" spellCheck="false" />
    );
    return (
        <Dialog title={old || t("console.directories.new")} isOpen onClose={onClose} wide>
            <SaveForm
                save={async () => {
                    await api("PUT", `/api/console/directories/${encodeURIComponent(id.trim() || "-")}`, { ...s, urls: urls.split(/[\s,]+/).filter(Boolean), ...(password && { password }) });
                    toast(t("console.directories.saved", { name: id }));
                    onSaved();
                }}
                button={t("common.save")}
                testId="directory-save"
                onCancel={onClose}
                fields={(wrong) => (
                    <>
                        {!old && <TextField label={t("console.directories.id")} value={id} onChange={setID} error={wrong("id")} hint={t("console.directories.idHint")} autoFocus autoComplete="off" spellCheck="false" />}
                        <label className="hf-field">
                            <span className="hf-label">{t("console.directories.kind")}</span>
                            <select value={s.kind} onChange={(e) => setS({ ...s, kind: e.target.value })}>
                                <option value="ldap">{t("console.directories.ldap")}</option>
                                <option value="ad">{t("console.directories.ad")}</option>
                            </select>
                        </label>
                        <TextField label={t("console.directories.urls")} value={urls} onChange={setURLs} hint={t("console.directories.urlsHint")} autoComplete="off" spellCheck="false" />
                        {text("base_dn")}
                        {text("bind_dn")}
                        <TextField label={t("console.directories.password")} type="password" value={password} onChange={setPassword} hint={old ? t("console.directories.passwordHint") : undefined} autoComplete="new-password" />
                        <TextField label={t("console.directories.ca")} multiline value={s.ca} onChange={(ca) => setS({ ...s, ca })} hint={t("console.directories.caHint")} />
                        {text("user_filter")}
                        {text("group_filter")}
                        <Switch isSelected={s.everyone} onChange={(everyone) => setS({ ...s, everyone })}>
                            {t("console.directories.everyone")}
                        </Switch>
                        <p className="hf-hint">{t("console.directories.follow")}</p>
                        {following.map(([what, attr]) => (
                            <div key={what}>
                                <Switch isSelected={s[what]} onChange={(on) => setS({ ...s, [what]: on })} data-testid={`directory-${what}`}>
                                    {t(`console.directories.${what}`)}
                                </Switch>
                                {s[what] && <TextField label={t(`console.directories.${attr}`)} value={s[attr]} onChange={(v) => setS({ ...s, [attr]: v })} hint={t("console.directories.attrHint")} autoComplete="off" spellCheck="false" />}
                            </div>
                        ))}
                    </>
                )}
            />
        </Dialog>
    );
}
