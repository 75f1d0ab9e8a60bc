(** Networks of one hidden layer with any real parameters, and what Sussmann's theorem (`Sussmann.v`)
    says of them. *)

From Coq Require Import Reals Lra Lia List.
From Moduli Require Import Activations Networks.
Import ListNotations.
Open Scope R_scope.

Record unit := Unit { incoming : list R; offset : R; outgoing : list R }.
Record shallow := Shallow { units : list unit; constants : list R }.

Fixpoint inner (w x : list R) : R :=
  match w, x with a :: w', y :: x' => a * y + inner w' x' | _, _ => 0 end.

Definition response (s : R -> R) (u : unit) (x : list R) : R := s (inner (incoming u) x + offset u).

Fixpoint responses (s : R -> R) (us : list unit) (x : list R) (i : nat) : R :=
  match us with [] => 0 | u :: rest => val (outgoing u) i * response s u x + responses s rest x i end.

Definition output (s : R -> R) (net : shallow) (x : list R) (i : nat) : R :=
  val (constants net) i + responses s (units net) x i.

(** All outputs of the network with the activation s. *)
Definition run (s : R -> R) (net : shallow) (x : list R) : list R :=
  map (output s net x) (seq 0 (length (constants net))).

(** n inputs, and as many outputs as constants. *)
Definition sized (n : nat) (net : shallow) : Prop :=
  Forall (fun u => length (incoming u) = n /\ length (outgoing u) = length (constants net)) (units net).

Definition is_something (v : list R) : Prop := Exists (fun r => r <> 0) v.

Definition twins (u v : unit) : Prop :=
  (incoming u = incoming v /\ offset u = offset v)
  \/ (incoming u = map Ropp (incoming v) /\ offset u = - offset v).

(** No unit without incoming or outgoing weights, and no two that are equal up to sign. *)
Definition irreducible (net : shallow) : Prop :=
  Forall (fun u => is_something (incoming u) /\ is_something (outgoing u)) (units net)
  /\ ForallOrdPairs (fun u v => ~ twins u v) (units net).

(** H. J. Sussmann, Uniqueness of the weights for minimal feedforward nets with a given input-output
    map, Neural Networks 5 (1992): an irreducible network of tanh is minimal. There for one output. *)
Definition sussmann (n : nat) : Prop :=
  forall net rival, sized n net -> sized n rival -> irreducible net ->
    (forall x, length x = n -> run tanh net x = run tanh rival x) ->
    (length (units net) <= length (units rival))%nat.

(** Outputs entry by entry ------------------------------------------------------------------------ *)

Lemma responses_beyond : forall s us x i m, (m <= i)%nat ->
  Forall (fun u => length (outgoing u) = m) us -> responses s us x i = 0.
Proof.
  intros s us x i m L F. induction F as [|u us E F IH]; cbn [responses]; [reflexivity|].
  rewrite IH, val_beyond by lia. ring.
Qed.

Lemma val_run : forall s n net x i, sized n net -> val (run s net x) i = output s net x i.
Proof.
  intros s n net x i F. unfold run. destruct (Nat.lt_ge_cases i (length (constants net))) as [L|L].
  - unfold val. rewrite nth_indep with (d' := output s net x 0) by (rewrite map_length, seq_length; exact L).
    rewrite map_nth, seq_nth by exact L. reflexivity.
  - rewrite val_beyond by (rewrite map_length, seq_length; exact L). unfold output.
    rewrite val_beyond by exact L. rewrite responses_beyond with (m := length (constants net)).
    + ring.
    + exact L.
    + apply Forall_impl with (2 := F). intros u [_ E]. exact E.
Qed.

Lemma length_run : forall s net x, length (run s net x) = length (constants net).
Proof. intros. unfold run. rewrite map_length, seq_length. reflexivity. Qed.

Lemma by_entries : forall u v, length u = length v -> (forall i, val u i = val v i) -> u = v.
Proof. intros u v L E. apply nth_ext with (d := 0) (d' := 0); [exact L|]. intros i _. apply E. Qed.

Lemma val_built : forall f m i, (i < m)%nat -> val (map f (seq 0 m)) i = f i.
Proof.
  intros f m i L. unfold val. rewrite nth_indep with (d' := f 0%nat) by (rewrite map_length, seq_length; exact L).
  rewrite map_nth, seq_nth by exact L. reflexivity.
Qed.

(** The same outputs but for a constant. *)
Definition shifted (by_ : nat -> R) (net : shallow) : shallow :=
  Shallow (units net) (map (fun i => val (constants net) i + by_ i) (seq 0 (length (constants net)))).

Lemma shifted_sized : forall by_ n net, sized n net -> sized n (shifted by_ net).
Proof.
  intros by_ n net F. unfold sized, shifted in *; cbn [units constants].
  rewrite map_length, seq_length. exact F.
Qed.

Lemma shifted_output : forall s by_ net x i, (i < length (constants net))%nat ->
  output s (shifted by_ net) x i = output s net x i + by_ i.
Proof. intros. unfold output, shifted; cbn [units constants]. rewrite val_built by assumption. ring. Qed.

(** The sigmoid through tanh ---------------------------------------------------------------------- *)

Definition half (v : list R) : list R := map (Rmult (/ 2)) v.

Definition halved_unit (u : unit) : unit :=
  Unit (half (incoming u)) (/ 2 * offset u) (half (outgoing u)).

Fixpoint total (us : list unit) (i : nat) : R :=
  match us with [] => 0 | u :: rest => val (outgoing u) i + total rest i end.

(** A network of tanh that is the network of sigmoids. *)
Definition halved (net : shallow) : shallow :=
  shifted (fun i => / 2 * total (units net) i) (Shallow (map halved_unit (units net)) (constants net)).

Lemma val_half : forall v i, val (half v) i = / 2 * val v i.
Proof.
  unfold half, val. induction v as [|r v IH]; intros [|i]; cbn [map nth]; try ring. apply IH.
Qed.

Lemma inner_half : forall w x, inner (half w) x = / 2 * inner w x.
Proof.
  unfold half. induction w as [|r w IH]; intros [|y x]; cbn [map inner]; try ring. rewrite IH. ring.
Qed.

Lemma halved_responses : forall us x i,
  responses tanh (map halved_unit us) x i = responses sigmoid us x i - / 2 * total us i.
Proof.
  intros us x i. induction us as [|u us IH]; cbn [map responses total]; [ring|].
  rewrite IH. unfold response, halved_unit; cbn [incoming offset outgoing].
  rewrite sigmoid_tanh, inner_half, val_half.
  replace (/ 2 * inner (incoming u) x + / 2 * offset u) with (/ 2 * (inner (incoming u) x + offset u)) by ring.
  field.
Qed.

Lemma halved_run : forall net x, run tanh (halved net) x = run sigmoid net x.
Proof.
  intros net x. unfold run. unfold halved, shifted at 2; cbn [constants]. rewrite map_length, seq_length.
  apply map_ext_in. intros i I. apply in_seq in I. unfold halved. rewrite shifted_output by (cbn; lia).
  unfold output; cbn [units constants]. rewrite halved_responses. ring.
Qed.

Lemma halved_sized : forall n net, sized n net -> sized n (halved net).
Proof.
  intros n net F. apply shifted_sized. unfold sized in *; cbn [units constants].
  induction F as [|u us [A B] F IH]; cbn [map]; constructor; [|exact IH].
  unfold halved_unit, half; cbn [incoming outgoing]. rewrite !map_length. split; assumption.
Qed.

Lemma half_something : forall v, is_something v -> is_something (half v).
Proof. intros v S. induction S as [r v N|r v S IH]; [left; lra | right; exact IH]. Qed.

Lemma half_injective : forall u v, half u = half v -> u = v.
Proof.
  unfold half. induction u as [|r u IH]; intros [|q v] E; try discriminate; [reflexivity|].
  cbn [map] in E. injection E as A B. f_equal; [lra | apply IH, B].
Qed.

Lemma half_opposite : forall v, map Ropp (half v) = half (map Ropp v).
Proof. intros. unfold half. rewrite !map_map. apply map_ext. intros. ring. Qed.

Lemma halved_twins : forall u v, twins (halved_unit u) (halved_unit v) -> twins u v.
Proof.
  intros u v T. unfold twins, halved_unit in *; cbn [incoming offset] in T. destruct T as [[A B]|[A B]].
  - left. split; [apply half_injective, A | lra].
  - right. rewrite half_opposite in A. split; [apply half_injective, A | lra].
Qed.

Lemma halved_irreducible : forall net, irreducible net -> irreducible (halved net).
Proof.
  intros net [S D]. unfold irreducible, halved, shifted; cbn [units]. split.
  - clear D. induction S as [|u us [A B] S IH]; cbn [map]; constructor; [|exact IH].
    split; apply half_something; assumption.
  - clear S. induction D as [|u us A D IH]; cbn [map]; constructor; [|exact IH].
    apply Forall_map. apply Forall_impl with (2 := A). intros v N T. apply N, halved_twins, T.
Qed.

(** Of either activation, a network of tanh with as many units. *)
Lemma as_tanh : forall s n net, s = tanh \/ s = sigmoid -> sized n net -> exists twin,
  sized n twin /\ length (units twin) = length (units net) /\ (irreducible net -> irreducible twin)
  /\ forall x, run tanh twin x = run s net x.
Proof.
  intros s n net [-> | ->] F; [exists net; auto|]. exists (halved net). repeat split.
  - apply halved_sized, F.
  - unfold halved, shifted; cbn [units]. apply map_length.
  - apply halved_irreducible, H.
  - apply halved_irreducible, H.
  - apply halved_run.
Qed.
