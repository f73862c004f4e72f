// The rooms and spaces that a group's people are put into.
import { useState } from "react";
import { Button, Confirm, Dialog, ErrorNote, RadioGroup, Switch, TextField, toast } from "../design";
import { t } from "../i18n";
import { api } from "../setup/api";
import { useLoaded } from "./load";
import { SaveForm } from "./settings";

const outs = ["yes", "no", "all"] as const;
type Out = (typeof outs)[number];

export interface Rule {
    room_id: string;
    name: string;
    alias?: string;
    space: boolean;
    level: number;
    take_out: Out;
    rooms: boolean;
    in_rooms: number;
    people: number;
    in: number;
    left: number;
    waiting: number;
    troubles: string[];
}

interface Room {
    room_id: string;
    name: string;
    alias?: string;
    space: boolean;
}

/** titleOf is what people call a room. */
export const titleOf = (r: Room): string => r.name || r.alias || r.room_id;

export function GroupRoomsDialog({ name, acts, onClose }: { name: string; acts: boolean; onClose: () => void }) {
    const { value, error, reload } = useLoaded<{ rules: Rule[]; rooms: Room[] }>(`/api/console/groups/rooms?${new URLSearchParams({ name })}`, 5);
    const [adding, setAdding] = useState(false);
    const [asked, setAsked] = useState<Rule>();
    const [out, setOut] = useState(false);
    const rules = value?.rules ?? [];
    return (
        <Dialog title={t("console.grouprooms.title", { name })} isOpen onClose={onClose} wide>
            <p className="hf-hint">{t("console.grouprooms.text")}</p>
            <ErrorNote>{error}</ErrorNote>
            {value && rules.length === 0 && <p className="hf-hint">{t("console.grouprooms.none")}</p>}
            <ul className="console-list" data-testid="grouprooms">
                {rules.map((r) => (
                    <li key={r.room_id}>
                        <span className="console-who">
                            <b>{titleOf(r)}</b>
                            {r.name && <span className="hf-hint">{r.alias ?? r.room_id}</span>}
                            <span className="hf-hint">
                                {[t("console.grouprooms.in", { in: r.in, people: r.people }), r.waiting > 0 && t("console.grouprooms.waiting", { count: r.waiting }), r.left > 0 && t("console.grouprooms.left", { count: r.left })].filter(Boolean).join(" · ")}
                            </span>
                            <span className="hf-hint">{t(`console.grouprooms.out.${r.take_out}`)}</span>
                            {r.troubles.map((x) => (
                                <span key={x} className="console-trouble">
                                    {x}
                                </span>
                            ))}
                        </span>
                        <span className="console-tags">
                            {r.space && <span className="hf-tag">{r.rooms ? t("console.grouprooms.spaceRooms", { count: Math.max(0, r.in_rooms - 1) }) : t("console.grouprooms.space")}</span>}
                            {r.level > 0 && <span className="hf-tag hf-tag--ok">{t("console.grouprooms.level", { level: r.level })}</span>}
                        </span>
                        {acts && (
                            <span className="console-buttons">
                                {r.left > 0 && (
                                    <Button
                                        look="plain"
                                        onPress={() =>
                                            void api("POST", "/api/console/groups/rooms/apply", { name, room: r.room_id })
                                                .then(reload)
                                                .catch((e: Error) => toast(e.message))
                                        }
                                    >
                                        {t("console.grouprooms.apply")}
                                    </Button>
                                )}
                                <Button look="plain" icon="trash" onPress={() => (setOut(false), setAsked(r))}>
                                    {t("console.groups.remove")}
                                </Button>
                            </span>
                        )}
                    </li>
                ))}
            </ul>
            {acts && !adding && (
                <div className="hf-actions">
                    <Button icon="add" onPress={() => setAdding(true)} data-testid="grouproom-new">
                        {t("console.grouprooms.new")}
                    </Button>
                </div>
            )}
            {adding && (
                <NewRule
                    name={name}
                    rooms={value?.rooms ?? []}
                    onMade={async () => {
                        setAdding(false);
                        await reload();
                    }}
                    onClose={() => setAdding(false)}
                />
            )}
            {asked && (
                <Confirm
                    title={t("console.grouprooms.removeTitle", { room: titleOf(asked) })}
                    yes={t("console.groups.remove")}
                    danger
                    isOpen
                    onYes={async () => {
                        await api("POST", "/api/console/groups/rooms/remove", { name, room: asked.room_id, out });
                        await reload();
                    }}
                    onClose={() => setAsked(undefined)}
                >
                    <p>{t("console.grouprooms.removeText")}</p>
                    <Switch isSelected={out} onChange={setOut} data-testid="grouproom-out">
                        {t("console.grouprooms.removeOut")}
                    </Switch>
                </Confirm>
            )}
        </Dialog>
    );
}

function NewRule({ name, rooms, onMade, onClose }: { name: string; rooms: Room[]; onMade: () => Promise<void>; onClose: () => void }) {
    const [chosen, setChosen] = useState("");
    const [typed, setTyped] = useState("");
    const [level, setLevel] = useState("");
    const [out, setOut] = useState<Out>("yes");
    const [inside, setInside] = useState(false);
    const space = chosen === "" || !!rooms.find((r) => r.room_id === chosen)?.space;
    return (
        <SaveForm
            save={async () => {
                await api("POST", "/api/console/groups/rooms/set", { name, room: chosen || typed.trim(), level: Number(level) || 0, take_out: out, rooms: space && inside });
                await onMade();
            }}
            button={t("console.grouprooms.make")}
            testId="grouproom-make"
            onCancel={onClose}
            fields={(wrong) => (
                <>
                    <label className="hf-field">
                        <span className="hf-label">{t("console.grouprooms.room")}</span>
                        <select value={chosen} onChange={(e) => setChosen(e.target.value)} data-testid="grouproom-room">
                            <option value="">{t("console.grouprooms.other")}</option>
                            {rooms.map((r) => (
                                <option key={r.room_id} value={r.room_id}>
                                    {r.space ? t("console.grouprooms.ofSpace", { name: titleOf(r) }) : titleOf(r)}
                                </option>
                            ))}
                        </select>
                    </label>
                    {chosen === "" && <TextField label={t("console.grouprooms.address")} value={typed} onChange={setTyped} error={wrong("room")} hint={t("console.grouprooms.addressHint")} autoComplete="off" spellCheck="false" />}
                    <label className="hf-field">
                        <span className="hf-label">{t("console.grouprooms.power")}</span>
                        <select value={level} onChange={(e) => setLevel(e.target.value)} data-testid="grouproom-level">
                            <option value="">{t("console.grouprooms.power0")}</option>
                            <option value="50">{t("console.grouprooms.power50")}</option>
                            <option value="100">{t("console.grouprooms.power100")}</option>
                        </select>
                    </label>
                    <RadioGroup label={t("console.grouprooms.leave")} value={out} onChange={setOut} choices={outs.map((value) => ({ value, label: t(`console.grouprooms.out.${value}`) }))} />
                    {space && (
                        <Switch isSelected={inside} onChange={setInside} hint={t("console.grouprooms.insideHint")} data-testid="grouproom-inside">
                            {t("console.grouprooms.inside")}
                        </Switch>
                    )}
                </>
            )}
        />
    );
}
