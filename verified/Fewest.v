(** Whether the small network of a proof has the fewest units that the function of the large one
    allows: the checker of that claim, and the theorem that it is sound. *)

From Coq Require Import ZArith QArith Qreals Reals Lra Lia List Bool.
From Moduli Require Import Numbers Activations Networks Terms Slack Checker Shallow Sussmann.
Import ListNotations.
Open Scope R_scope.

Definition opposite_row (r : row) : row := (opposite (fst r), Qopp (snd r)).
Definition same_row (r s : row) : bool := Qeq_bool (snd r) (snd s) && same (fst r) (fst s).

(** No two rows are equal up to sign. *)
Fixpoint distinct (rs : list row) : bool :=
  match rs with
  | [] => true
  | r :: rest =>
      let turned := opposite_row r in
      forallb (fun s => negb (same_row r s) && negb (same_row turned s)) rest && distinct rest
  end.

Definition is_sigmoidal (a : activation) : bool := match a with Tanh | Sigmoid => true | _ => false end.

(** One hidden layer of tanh or the sigmoid, and the affine map behind it. *)
Definition is_shallow (l m : layer) : bool :=
  is_sigmoidal (function l) && same_activation (function m) identity.

Definition outgoing_columns (l m : layer) : list (list Q) := columns (length (rows l)) (map fst (rows m)).

Definition is_irreducible (l m : layer) : bool :=
  forallb (fun r => negb (all_zero (fst r))) (rows l)
  && forallb (fun c => negb (all_zero c)) (outgoing_columns l m)
  && distinct (rows l).

(** The large network is, after its links, irreducible, with as many units as the small one. Links
    may leave a constant behind where it has one hidden layer; in others they must be exact. *)
Definition has_fewest (p : proof) : bool :=
  match domain p, small p, followed (inputs p) [] (large p) [] (large_links p) with
  | [], [l; m], inl ([l'; m'], cost) =>
      is_shallow l m && is_shallow l' m' && Nat.eqb (length (rows l)) (length (rows l'))
      && is_irreducible l' m' && (all_zero cost || Nat.eqb (length (large p)) 2)
  | _, _, _ => false
  end.

Definition accepts_fewest (p : proof) : bool := accepts p && has_fewest p.

(** Stored networks over the real numbers ---------------------------------------------------------- *)

Definition stored_unit (r : row) (c : list Q) : unit := Unit (map Q2R (fst r)) (Q2R (snd r)) (map Q2R c).

Fixpoint stored_units (rs : list row) (cs : list (list Q)) : list unit :=
  match rs, cs with r :: rs', c :: cs' => stored_unit r c :: stored_units rs' cs' | _, _ => [] end.

Definition stored (l m : layer) : shallow :=
  Shallow (stored_units (rows l) (outgoing_columns l m)) (map Q2R (map snd (rows m))).

Lemma val_stored : forall v i, val (map Q2R v) i = at_ v i.
Proof.
  unfold val, at_. induction v as [|q v IH]; intros [|i]; cbn [map nth]; rewrite ?real_zero; auto.
Qed.

Lemma inner_stored : forall w x, inner (map Q2R w) x = dot w x.
Proof. induction w as [|q w IH]; intros [|y x]; cbn [map inner dot]; rewrite ?IH; reflexivity. Qed.

Lemma columns_sized : forall n rs, forallb (fun r => Nat.eqb (length r) n) rs = true ->
  Forall (fun c => length c = length rs) (columns n rs).
Proof.
  intros n. induction rs as [|r rs IH]; intros E; cbn [columns].
  - apply Forall_forall. intros c I. apply repeat_spec in I. subst. reflexivity.
  - cbn [forallb] in E. apply andb_true_iff in E as [E F]. specialize (IH F).
    assert (L : length r = length (columns n rs)).
    { rewrite columns_length by exact F. apply Nat.eqb_eq, E. }
    clear E F. cbn [length]. revert r L. induction IH as [|c cs C _ IH]; intros [|q r] L; try discriminate.
    + constructor.
    + cbn [with_row]. constructor; [cbn [length]; congruence | apply IH; cbn in L; lia].
Qed.

Section Meaning.

Variable other : smooth -> R -> R.
Hypothesis other_lawful : lawful other.

Lemma stored_output : forall l m x i, fits (length (rows l)) (rows m) = true ->
  output (meaning other (function l)) (stored l m) x i = val (affine (rows m) (applied other l x)) i.
Proof.
  intros l m x i F. rewrite <- (contribution_sum other) by exact F.
  unfold output, stored, contribution; cbn [units constants sum]. f_equal.
  - rewrite val_stored. unfold worth; cbn [form weights bias column of_form dot].
    replace (dot [] x) with 0 by (destruct x; reflexivity). rewrite real_one. ring.
  - fold (outgoing_columns l m). generalize (outgoing_columns l m). clear F.
    induction (rows l) as [|r rs IH]; intros [|c cs]; try reflexivity.
    cbn [stored_units unit_terms sum responses]. rewrite IH. f_equal.
    unfold worth, response, stored_unit; cbn [form weights bias column of_form incoming offset outgoing].
    rewrite val_stored, inner_stored. reflexivity.
Qed.

Lemma stored_sized : forall n l m, fits n (rows l) = true -> fits (length (rows l)) (rows m) = true ->
  sized n (stored l m).
Proof.
  intros n l m F G. apply fits_first in G. unfold sized, stored; cbn [units constants].
  pose proof (columns_sized _ _ G) as C. fold (outgoing_columns l m) in C.
  assert (D : Forall (fun c => length c = length (map Q2R (map snd (rows m)))) (outgoing_columns l m)).
  { apply Forall_impl with (2 := C). intros c L. rewrite L, !map_length. reflexivity. }
  clear G C. generalize dependent (outgoing_columns l m). unfold fits in F.
  induction (rows l) as [|r rs IH]; intros cs D; [constructor|].
  destruct cs as [|c cs]; [constructor|]. cbn [forallb] in F. apply andb_true_iff in F as [E F].
  inversion D; subst. cbn [stored_units]. constructor; [|apply IH; assumption].
  cbn [stored_unit incoming outgoing]. split; rewrite map_length.
  - apply Nat.eqb_eq, E.
  - assumption.
Qed.

Lemma length_stored : forall l m, fits (length (rows l)) (rows m) = true ->
  length (units (stored l m)) = length (rows l).
Proof.
  intros l m G. apply fits_first in G. apply columns_length in G.
  unfold stored; cbn [units]. fold (outgoing_columns l m) in G. revert G.
  generalize (outgoing_columns l m).
  induction (rows l) as [|r rs IH]; intros [|c cs] L; try discriminate; [reflexivity|].
  cbn [stored_units length]. f_equal. apply IH. cbn in L. lia.
Qed.

Lemma affine_end : forall m h, same_activation (function m) identity = true ->
  applied other m h = affine (rows m) h.
Proof.
  intros m h E. apply same_activation_equal in E. unfold applied. rewrite E.
  rewrite <- map_id. apply map_ext. intros z. cbn [identity meaning].
  rewrite real_one. apply kinked_identity.
Qed.

Lemma stored_run : forall l m x, fits (length (rows l)) (rows m) = true ->
  sized (length x) (stored l m) -> same_activation (function m) identity = true ->
  run (meaning other (function l)) (stored l m) x = eval other [l; m] x.
Proof.
  intros l m x F S E. cbn [eval]. rewrite affine_end by exact E. apply by_entries.
  - rewrite length_run, length_affine. unfold stored; cbn [constants]. rewrite !map_length. reflexivity.
  - intros i. rewrite (val_run _ (length x)) by exact S. apply stored_output, F.
Qed.

(** Irreducible ------------------------------------------------------------------------------------- *)

Lemma not_all_zero : forall v, negb (all_zero v) = true -> is_something (map Q2R v).
Proof.
  induction v as [|q v IH]; intros E; [discriminate|]. cbn [all_zero forallb map] in *.
  destruct (is_zero q) eqn:Z; [right; apply IH, E|]. left. intro H.
  apply real_sign in Z. rewrite real_size, H, Rabs_R0 in Z. lra.
Qed.

Lemma equal_same : forall u v, map Q2R u = map Q2R v -> same u v = true.
Proof.
  induction u as [|p u IH]; intros [|q v] E; try discriminate; [reflexivity|].
  cbn [map same] in *. injection E as A B. rewrite (IH _ B), andb_true_r.
  apply Qeq_bool_iff, eqR_Qeq, A.
Qed.

Lemma opposite_stored : forall v, map Q2R (opposite v) = map Ropp (map Q2R v).
Proof. intros. unfold opposite. rewrite !map_map. apply map_ext. intros. apply Q2R_opp. Qed.

Lemma distinct_twins : forall r s c d,
  negb (same_row r s) && negb (same_row (opposite_row r) s) = true ->
  ~ twins (stored_unit r c) (stored_unit s d).
Proof.
  intros r s c d E T. apply andb_true_iff in E as [E F]. apply negb_true_iff in E, F.
  unfold twins, stored_unit in T; cbn [incoming offset] in T. destruct T as [[A B]|[A B]].
  - unfold same_row in E. rewrite (equal_same _ _ A), andb_true_r in E.
    apply eqR_Qeq, Qeq_bool_iff in B. congruence.
  - assert (C : map Q2R (opposite (fst r)) = map Q2R (fst s)).
    { rewrite opposite_stored, A, map_map. rewrite <- map_id. apply map_ext. intros. ring. }
    assert (D : Q2R (Qopp (snd r)) = Q2R (snd s)) by (rewrite Q2R_opp, B; ring).
    unfold same_row, opposite_row in F; cbn [fst snd] in F.
    rewrite (equal_same _ _ C), andb_true_r in F. apply eqR_Qeq, Qeq_bool_iff in D. congruence.
Qed.

Lemma stored_irreducible : forall l m, is_irreducible l m = true -> irreducible (stored l m).
Proof.
  intros l m E. apply andb_true_iff in E as [E D]. apply andb_true_iff in E as [R C].
  unfold irreducible, stored; cbn [units]. generalize dependent (outgoing_columns l m).
  induction (rows l) as [|r rs IH]; intros cs C; [split; constructor|].
  destruct cs as [|c cs]; [split; constructor|].
  cbn [forallb distinct stored_units] in *.
  apply andb_true_iff in R as [A R], C as [B C], D as [N D].
  destruct (IH R D cs C) as [S T]. split; constructor; try assumption.
  - split; apply not_all_zero; assumption.
  - clear IH R D S T A B C. revert cs. induction rs as [|s rs IH]; intros [|d cs]; try constructor.
    + cbn [forallb] in N. apply andb_true_iff in N as [N _]. apply distinct_twins, N.
    + cbn [forallb] in N. apply andb_true_iff in N as [_ N]. apply IH, N.
Qed.

(** Links of one hidden layer ----------------------------------------------------------------------- *)

(** What is left of a sum is affine, with a constant that no bound has to describe. *)
Lemma remaining_affine : forall ts r, remaining ts = Some r -> exists c : nat -> R,
  forall h i, sum other ts h i = dot (row_at (matrix r) i) h + c i.
Proof.
  induction ts as [|t ts IH]; intros r E; cbn [remaining] in E.
  - inversion E; subst. exists (fun _ => 0). intros h i. unfold row_at; cbn [matrix sum].
    replace (dot (nth i [] []) h) with 0 by (destruct i, h; reflexivity). ring.
  - destruct (remaining ts) as [s|]; [|discriminate]. destruct (IH s eq_refl) as [c H].
    destruct t as [f w b v]; cbn [form weights bias column] in *.
    destruct f as [| |a]; [| discriminate |].
    + inversion E; subst. exists (fun i => at_ v i * Q2R b + c i). intros h i. cbn [sum matrix].
      rewrite H, add_outer_row. unfold worth; cbn [form weights bias column of_form]. ring.
    + destruct w as [|q w]; [|discriminate].
      destruct (point a b) as [[k e]|]; [|discriminate]. inversion E; subst.
      exists (fun i => at_ v i * meaning other a (Q2R b) + c i). intros h i. cbn [sum matrix].
      rewrite H. unfold worth; cbn [form weights bias column of_form].
      replace (dot [] h) with 0 by (destruct h; reflexivity). rewrite Rplus_0_l. ring.
Qed.

Lemma bounded_constant : forall n ts e, bounded n [] ts = Some e -> exists c : nat -> R,
  forall h i, length h = n -> sum other ts h i = c i.
Proof.
  intros n ts e E. unfold bounded in E. destruct (forallb _ (group ts)) eqn:F; [|discriminate].
  unfold residual in E. destruct (remaining _) as [r|] eqn:R; [|discriminate].
  destruct (forallb all_zero (matrix r)) eqn:Z; [|discriminate].
  destruct (remaining_affine _ _ R) as [c H]. exists c. intros h i L.
  rewrite <- (sum_group other ts). specialize (H h i). rewrite sum_group in H.
  assert (D : dot (row_at (matrix r) i) h = 0).
  { apply dot_zero. unfold row_at. destruct (Nat.lt_ge_cases i (length (matrix r))) as [I|I].
    - rewrite forallb_forall in Z. apply Z, nth_In, I.
    - rewrite nth_overflow by exact I. reflexivity. }
  rewrite D, Rplus_0_l in H. rewrite <- H. clear - F L other_lawful.
  induction (group ts) as [|t us IH]; [reflexivity|].
  cbn [forallb flat_map sum] in *. apply andb_true_iff in F as [F G].
  rewrite sum_app, (IH G). f_equal. symmetry. apply canonical_sum; [exact other_lawful | | exact I].
  apply Nat.leb_le in F. lia.
Qed.

(** The outputs of two networks are a constant apart. *)
Definition apart_by (c : nat -> R) (n : nat) (one two : network) : Prop :=
  forall x, length x = n -> forall i, val (eval other one x) i = val (eval other two x) i + c i.

Definition affine_behind (net : network) : Prop :=
  match net with [_; m] => same_activation (function m) identity = true | _ => True end.

Lemma linked_apart : forall k n l m c net e, linked k n [] [l; m] c = Some (net, e) ->
  same_activation (function m) identity = true ->
  fits (length (rows l)) (rows m) = true ->
  length net = 1%nat \/ exists l' m', net = [l'; m'] /\ function m' = function m
    /\ exists by_, apart_by by_ n [l; m] [l'; m'].
Proof.
  intros [|[|[|k]]] n l m c net e E A F; cbn [linked] in E; try discriminate.
  destruct (changed n [] l m c) as [[found d]|] eqn:C; inversion E; subst; clear E.
  destruct c as [l' behind|behind]; cbn [changed] in C.
  2: { destruct (_ && _); [|discriminate]. destruct (bounded _ _ _); inversion C. left. reflexivity. }
  right. destruct (_ && _) eqn:S; [|discriminate].
  apply andb_true_iff in S as [S _]. apply andb_true_iff in S as [_ T].
  destruct (bounded _ _ _) as [e|] eqn:B; inversion C; subst; clear C.
  exists l', (Layer behind (function m)). split; [reflexivity|]. split; [reflexivity|].
  destruct (bounded_constant _ _ _ B) as [by_ H]. exists by_. intros x L i. specialize (H x i L).
  rewrite sum_app, sum_negated, !contribution_sum in H by assumption.
  cbn [eval]. rewrite (affine_end m), (affine_end (Layer behind (function m))) by exact A.
  cbn [rows]. lra.
Qed.

Lemma linked_one : forall k n l c, linked k n [] [l] c = None.
Proof. intros [|[|k]] n l c; reflexivity. Qed.

Lemma followed_apart : forall links n l m cost l' m' cost',
  followed n [] [l; m] cost links = inl ([l'; m'], cost') -> shaped n [l; m] = true ->
  same_activation (function m') identity = true -> exists by_, apart_by by_ n [l; m] [l'; m'].
Proof.
  induction links as [|[k c] links IH]; intros n l m cost l' m' cost' E S A; cbn [followed] in E.
  - inversion E; subst. exists (fun _ => 0). intros x _ i. ring.
  - destruct (linked k n [] [l; m] c) as [[net e]|] eqn:C; [|discriminate].
    assert (M : forall links n l m cost l' m' cost', followed n [] [l; m] cost links = inl ([l'; m'], cost') ->
      function m = function m').
    { clear. induction links as [|[k c] links IH]; intros n l m cost l' m' cost' E; cbn [followed] in E.
      - inversion E; reflexivity.
      - destruct (linked k n [] [l; m] c) as [[net e]|] eqn:C; [|discriminate].
        destruct k as [|[|[|k]]]; cbn [linked] in C; try discriminate.
        destruct (changed n [] l m c) as [[found d]|] eqn:D; inversion C; subst; clear C.
        destruct c as [u behind|behind]; cbn [changed] in D; destruct (_ && _); try discriminate;
          destruct (bounded _ _ _); inversion D; subst; clear D.
        + apply (IH _ _ _ _ _ _ _ E).
        + destruct links as [|[k c] links]; cbn [fst app followed] in E; [discriminate|].
          rewrite linked_one in E. discriminate. }
    pose proof (M ((Link k c) :: links) n l m cost l' m' cost') as Same. cbn [followed] in Same.
    rewrite C in Same. specialize (Same E).
    pose proof S as S0. cbn [shaped] in S0. apply andb_true_iff in S0 as [_ F]. rewrite andb_true_r in F.
    rewrite <- Same in A.
    destruct (linked_apart _ _ _ _ _ _ _ C A F) as [One|(u & o & -> & B & by_ & H)].
    + destruct net as [|w [|]]; try discriminate.
      destruct links as [|[k' c'] links]; cbn [followed] in E; [discriminate|].
      rewrite linked_one in E. discriminate.
    + assert (T : shaped n [u; o] = true).
      { destruct (linked_sound other other_lawful _ _ _ _ _ _ _ C S (repeat 0 n) (repeat_length _ _) I) as [T _].
        exact T. }
      rewrite Same in A. destruct (IH _ _ _ _ _ _ _ E T A) as [by' K].
      exists (fun i => by_ i + by' i). intros x L i. rewrite (H x L i), (K x L i). ring.
Qed.

Lemma exact_apart : forall n links net cost one cost', shaped n net = true ->
  followed n [] net cost links = inl (one, cost') -> cost = [] -> all_zero cost' = true ->
  apart_by (fun _ => 0) n net one.
Proof.
  intros n links net cost one cost' S E -> Z x L i.
  destruct (followed_sound other other_lawful _ _ [] net _ _ _ _ E S x L I (within_self _)) as [_ [_ W]].
  specialize (W i). rewrite at_all_zero in W by exact Z. apply abs_ends in W. lra.
Qed.

(** The theorem ------------------------------------------------------------------------------------- *)

Lemma sigmoidal : forall a, is_sigmoidal a = true -> meaning other a = tanh \/ meaning other a = sigmoid.
Proof. intros [] E; try discriminate; [left | right]; reflexivity. Qed.

(** No network of one hidden layer of tanh, or of sigmoids, that is the function of the large one has
    fewer units than the small one. *)
Theorem fewest_sound : forall p, accepts_fewest p = true ->
  forall s rival, s = tanh \/ s = sigmoid -> sized (inputs p) rival ->
  (forall x, length x = inputs p -> run s rival x = eval other (large p) x) ->
  exists l m, small p = [l; m] /\ (length (rows l) <= length (units rival))%nat.
Proof.
  intros p E s rival Tanh Sized Equal. unfold accepts_fewest in E.
  apply andb_true_iff in E as [Acc E]. unfold has_fewest in E.
  destruct (domain p) as [|]; [|discriminate].
  destruct (small p) as [|l [|m [|]]]; try discriminate.
  destruct (followed _ _ _ _ _) as [[one cost]|] eqn:F; [|discriminate].
  destruct one as [|l' [|m' [|]]]; try discriminate.
  apply andb_true_iff in E as [E Exact_]. apply andb_true_iff in E as [E Irr].
  apply andb_true_iff in E as [E Width]. apply andb_true_iff in E as [_ Form].
  apply andb_true_iff in Form as [Act End_]. apply Nat.eqb_eq in Width.
  exists l, m. split; [reflexivity|]. rewrite Width.
  unfold accepts, verdict_of in Acc.
  destruct (shaped (inputs p) (large p)) eqn:S; [|discriminate]. clear Acc.
  destruct (followed_sound other other_lawful _ _ [] (large p) _ _ _ _ F S (repeat 0 (inputs p))
    (repeat_length _ _) I (within_self _)) as [T [Len _]].
  assert (Apart : exists by_, apart_by by_ (inputs p) (large p) [l'; m']).
  { apply orb_true_iff in Exact_ as [Z|Two].
    - exists (fun _ => 0). apply (exact_apart _ _ _ _ _ _ S F eq_refl Z).
    - destruct (large p) as [|a [|b [|]]]; try discriminate.
      apply (followed_apart _ _ _ _ _ _ _ _ F S End_). }
  destruct Apart as [by_ Apart].
  cbn [shaped] in T. apply andb_true_iff in T as [T U]. rewrite andb_true_r in U.
  pose proof (stored_sized _ _ _ T U) as Stored.
  destruct (as_tanh _ _ _ (sigmoidal _ Act) Stored) as (mine & Sized1 & Units1 & Irr1 & Run1).
  destruct (as_tanh s _ (shifted (fun i => - by_ i) rival) Tanh (shifted_sized _ _ _ Sized))
    as (yours & Sized2 & Units2 & _ & Run2).
  assert (Outputs : length (constants rival) = length (rows m')).
  { rewrite <- (length_run s rival (repeat 0 (inputs p))), Equal by apply repeat_length.
    rewrite Len. cbn [eval]. apply length_applied. }
  rewrite <- (length_stored _ _ U), <- Units1.
  replace (length (units rival)) with (length (units yours)) by (rewrite Units2; reflexivity).
  apply (sussmann_holds (inputs p)); [exact Sized1 | exact Sized2 | apply Irr1, stored_irreducible, Irr |].
  intros x L. rewrite Run1, Run2. rewrite <- L in Stored, Sized, Sized1.
  rewrite stored_run by assumption. apply by_entries.
  - rewrite length_run. cbn [eval]. rewrite length_applied. unfold shifted; cbn [constants].
    rewrite map_length, seq_length. congruence.
  - intros i. rewrite (val_run _ (length x)) by (apply shifted_sized, Sized).
    pose proof (Apart x L i) as H. rewrite <- (Equal x L), (val_run _ (length x)) in H by exact Sized.
    destruct (Nat.lt_ge_cases i (length (constants rival))) as [I|I].
    + rewrite shifted_output by exact I. lra.
    + rewrite val_beyond by (cbn [eval]; rewrite length_applied; lia).
      rewrite <- (val_run _ (length x)) by (apply shifted_sized, Sized).
      rewrite val_beyond; [reflexivity|]. rewrite length_run. unfold shifted; cbn [constants].
      rewrite map_length, seq_length. exact I.
Qed.

End Meaning.

(** Without hypotheses, as `checker_sound_defined`. *)
Theorem fewest_sound_defined : forall p, accepts_fewest p = true -> all_defined (large p) = true ->
  forall other s rival, s = tanh \/ s = sigmoid -> sized (inputs p) rival ->
  (forall x, length x = inputs p -> run s rival x = eval other (large p) x) ->
  exists l m, small p = [l; m] /\ (length (rows l) <= length (units rival))%nat.
Proof.
  intros p E D other s rival T S H.
  apply (fewest_sound example example_lawful p E s rival T S).
  intros x L. rewrite (H x L). apply eval_defined, D.
Qed.
