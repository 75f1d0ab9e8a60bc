(** Sums of units, and when such a sum is (nearly) zero for all values of the layer before.

    A hidden layer adds v s(w . h + b) to the layer behind it for each unit. So two layers may stand
    for each other if the units of one and the opposite units of the other have the sum zero. To see
    it, each term is rewritten by the laws of its activation ([canonical]), terms with equal w and b
    are put together ([group]), and what is left has to be an affine function that is zero, up to
    constants that are bounded ([residual]). *)

From Coq Require Import ZArith QArith Qreals Reals Lra Lia List Bool.
From Moduli Require Import Numbers Activations Exponential Networks.
Import ListNotations.
Open Scope R_scope.

Inductive shape := Linear | Ramp | Through (a : activation).

(** column * shape(weights . h + bias) *)
Record term := Term { form : shape; weights : list Q; bias : Q; column : list Q }.

Definition same_form (s t : shape) : bool :=
  match s, t with
  | Linear, Linear | Ramp, Ramp => true
  | Through a, Through b => same_activation a b
  | _, _ => false
  end.

Definition same_unit (s t : term) : bool :=
  same_form (form s) (form t) && Qeq_bool (bias s) (bias t) && same (weights s) (weights t).

Fixpoint insert (t : term) (ts : list term) : list term :=
  match ts with
  | [] => [t]
  | u :: us =>
      if same_unit u t then Term (form u) (weights u) (bias u) (plus (column u) (column t)) :: us
      else u :: insert t us
  end.

(** Terms with equal units become one, and terms that add nothing go. *)
Definition group (ts : list term) : list term :=
  filter (fun t => negb (all_zero (column t))) (fold_right insert [] ts).

Definition negated (t : term) : term := Term (form t) (weights t) (bias t) (opposite (column t)).

(** Ranges ---------------------------------------------------------------------------------------- *)

(** Ends of an interval; None is no end. *)
Definition ends : Set := (option Q * option Q)%type.
Definition free : ends := (None, None).

Definition times (q : Q) (e : ends) : ends :=
  if is_zero q then (Some 0%Q, Some 0%Q)
  else let by_q := option_map (mul q) in
    if negative q then (by_q (snd e), by_q (fst e)) else (by_q (fst e), by_q (snd e)).

Definition both (x y : option Q) : option Q :=
  match x, y with Some p, Some q => Some (add p q) | _, _ => None end.

(** What w . h can be for h in some ranges; entries behind the end of [es] are free. *)
Fixpoint reached (w : list Q) (es : list ends) : ends :=
  match w with
  | [] => (Some 0%Q, Some 0%Q)
  | q :: w' =>
      let first := times q (hd free es) in
      let rest := reached w' (tl es) in
      (both (fst first) (fst rest), both (snd first) (snd rest))
  end.

Definition reached_row (r : row) (es : list ends) : ends :=
  let e := reached (fst r) es in (option_map (add (snd r)) (fst e), option_map (add (snd r)) (snd e)).

Definition kinked_at (slope z : Q) : Q := if negative z then mul slope z else z.

(** What an activation can be, on a range. *)
Definition image (a : activation) (e : ends) : ends :=
  match a with
  | Kinked slope =>
      if negative slope then (lower (laws a), upper (laws a))
      else
        let at_end (x y : option Q) := match x with Some q => Some (kinked_at slope q) | None => y end in
        (at_end (fst e) (lower (laws a)), at_end (snd e) (upper (laws a)))
  | _ => (lower (laws a), upper (laws a))
  end.

Definition after (l : layer) (es : list ends) : list ends :=
  map (fun r => image (function l) (reached_row r es)) (rows l).

(** Laws ------------------------------------------------------------------------------------------ *)

Definition constant (q : Q) (v : list Q) : term := Term Linear [] q v.
Definition trimmed (w : list Q) : list Q := if all_zero w then [] else w.
Definition linear (w : list Q) (b : Q) (v : list Q) : term := Term Linear (trimmed w) b v.

(** The first entry that is not zero, or 0. *)
Fixpoint lead (w : list Q) : Q :=
  match w with [] => 0%Q | q :: w' => if is_zero q then lead w' else q end.

Definition reduced (q : Q) (w : list Q) : list Q := map (fun p => Qred (mul q p)) w.

Definition at_least_zero (o : option Q) : bool := match o with Some q => Qle_bool 0 q | None => false end.
Definition at_most_zero (o : option Q) : bool := match o with Some q => Qle_bool q 0 | None => false end.

(** v relu(w . h + b): nothing or linear where a sign is known; else with a first weight of 1, by
    relu(t z) = t relu(z) for t > 0 and relu(z) = relu(-z) + z. *)
Definition ramp_terms (es : list ends) (w : list Q) (b : Q) (v : list Q) : list term :=
  let (low, high) := reached_row (w, b) es in
  if at_least_zero low then [linear w b v]
  else if at_most_zero high then []
  else
    let q := lead w in
    if is_zero q then [Term Ramp w b v]
    else
      let t := inverse q in
      let v' := scaled (size q) v in
      let w' := reduced t w in
      let b' := Qred (mul t b) in
      if negative q then [Term Ramp w' b' v'; linear w' b' (opposite v')] else [Term Ramp w' b' v'].

(** v s(w . h + b) with a first entry of (w, b) that is not negative, where a law turns it. *)
Definition turned (a : activation) (w : list Q) (b : Q) (v : list Q) : list term :=
  let w := trimmed w in
  match w, is_zero b, zero_value (laws a) with
  | [], true, Some q => [constant q v]
  | _, _, _ =>
      match reflection (laws a) with
      | Some (sign, slope, offset) =>
          if negative (lead (w ++ [b])) then
            [Term (Through a) (opposite w) (Qopp b) (scaled sign v);
             linear (opposite w) (Qopp b) (scaled slope v);
             constant offset v]
          else [Term (Through a) w b v]
      | None => [Term (Through a) w b v]
      end
  end.

Definition canonical (es : list ends) (t : term) : list term :=
  let w := weights t in
  let b := bias t in
  let v := column t in
  match form t with
  | Linear => [linear w b v]
  | Ramp => ramp_terms es w b v
  | Through (Kinked a) => ramp_terms es w b (scaled (sub 1 a) v) ++ [linear w b (scaled a v)]
  | Through (Clip low high) =>
      if Qle_bool low high then
        ramp_terms es w (sub b low) v ++ ramp_terms es w (sub b high) (opposite v) ++ [constant low v]
      else [t]
  | Through Sigmoid =>
      let half := scaled (1 # 2) in
      turned Tanh (half w) (mul (1 # 2) b) (half v) ++ [constant (1 # 2) v]
  | Through a => turned a w b v
  end.

(** What is left ---------------------------------------------------------------------------------- *)

(** Matrices by rows; rows behind the end are zero. *)
Fixpoint add_outer (v w : list Q) (m : list (list Q)) : list (list Q) :=
  match v with
  | [] => m
  | c :: v' => (if is_zero c then hd [] m else plus (scaled c w) (hd [] m)) :: add_outer v' w (tl m)
  end.

(** s(b) is [fst] up to [snd]. *)
Definition point (a : activation) (b : Q) : option (Q * Q) :=
  match a with
  | Tanh => let (low, high) := tanh_between b in
      Some (mul (1 # 2) (add low high), mul (1 # 2) (sub high low))
  | _ => None
  end.

(** The sum of terms as matrix h + center, up to radius. *)
Record remains := Remains { matrix : list (list Q); center : list Q; radius : list Q }.

Fixpoint remaining (ts : list term) : option remains :=
  match ts with
  | [] => Some (Remains [] [] [])
  | t :: rest =>
      match remaining rest with
      | None => None
      | Some r =>
          match form t, weights t with
          | Linear, w =>
              Some (Remains (add_outer (column t) w (matrix r))
                (plus (scaled (bias t) (column t)) (center r)) (radius r))
          | Through a, [] =>
              match point a (bias t) with
              | Some (c, e) =>
                  Some (Remains (matrix r) (plus (scaled c (column t)) (center r))
                    (plus (scaled e (map size (column t))) (radius r)))
              | None => None
              end
          | _, _ => None
          end
      end
  end.

(** Bounds of the sum for all h, by output. *)
Definition residual (ts : list term) : option (list Q) :=
  match remaining ts with
  | Some r => if forallb all_zero (matrix r) then Some (plus (map size (center r)) (radius r)) else None
  | None => None
  end.

(** The same for terms as they come: equal ones first, as most units stay what they are. *)
Definition bounded (n : nat) (es : list ends) (ts : list term) : option (list Q) :=
  let left := group ts in
  if forallb (fun t => Nat.leb (length (weights t)) n) left then
    residual (group (flat_map (canonical es) left))
  else None.

(** Proofs ---------------------------------------------------------------------------------------- *)

Section Meaning.

Variable other : smooth -> R -> R.
Hypothesis other_lawful : lawful other.

Definition of_form (s : shape) (z : R) : R :=
  match s with Linear => z | Ramp => relu z | Through a => meaning other a z end.

Definition worth (t : term) (h : list R) (i : nat) : R :=
  at_ (column t) i * of_form (form t) (dot (weights t) h + Q2R (bias t)).

Fixpoint sum (ts : list term) (h : list R) (i : nat) : R :=
  match ts with [] => 0 | t :: rest => worth t h i + sum rest h i end.

Lemma sum_app : forall ss ts h i, sum (ss ++ ts) h i = sum ss h i + sum ts h i.
Proof. induction ss as [|s ss IH]; intros; cbn [app sum]; [ring|]. rewrite IH. ring. Qed.

Lemma sum_negated : forall ts h i, sum (map negated ts) h i = - sum ts h i.
Proof.
  induction ts as [|t ts IH]; intros; cbn [map sum]; [ring|]. rewrite IH.
  unfold worth, negated; cbn [form weights bias column]. rewrite at_opposite. ring.
Qed.

Lemma same_unit_value : forall s t h, same_unit s t = true ->
  of_form (form s) (dot (weights s) h + Q2R (bias s)) =
  of_form (form t) (dot (weights t) h + Q2R (bias t)).
Proof.
  intros s t h E. unfold same_unit in E.
  apply andb_true_iff in E as [E W]. apply andb_true_iff in E as [F B].
  rewrite (real_eq _ _ B), (dot_same _ _ h W). f_equal.
  destruct (form s), (form t); cbn in F; try discriminate; try reflexivity.
  apply same_activation_equal in F. congruence.
Qed.

Lemma sum_insert : forall t ts h i, sum (insert t ts) h i = worth t h i + sum ts h i.
Proof.
  induction ts as [|u ts IH]; intros; cbn [insert sum]; [reflexivity|].
  destruct (same_unit u t) eqn:E; cbn [sum].
  - unfold worth; cbn [form weights bias column].
    rewrite at_plus, (same_unit_value _ _ h E). ring.
  - rewrite IH. ring.
Qed.

Lemma sum_group : forall ts h i, sum (group ts) h i = sum ts h i.
Proof.
  intros. unfold group. transitivity (sum (fold_right insert [] ts) h i).
  - induction (fold_right insert [] ts) as [|t us IH]; [reflexivity|].
    cbn [filter]. destruct (all_zero (column t)) eqn:E; cbn [negb sum]; rewrite IH; [|reflexivity].
    unfold worth. rewrite (at_all_zero _ i E). ring.
  - induction ts as [|t ts IH]; [reflexivity|].
    cbn [fold_right]. rewrite sum_insert, IH. reflexivity.
Qed.

(** Ranges *)

Definition inside (e : ends) (x : R) : Prop :=
  holds (fun q => Q2R q <= x) (fst e) /\ holds (fun q => x <= Q2R q) (snd e).

Fixpoint all_inside (es : list ends) (h : list R) : Prop :=
  match es, h with
  | e :: es', x :: h' => inside e x /\ all_inside es' h'
  | _, _ => True
  end.

Lemma times_inside : forall q e x, inside e x -> inside (times q e) (Q2R q * x).
Proof.
  intros q [l u] x [L U]. unfold times, inside; cbn [fst snd] in *.
  destruct (is_zero q) eqn:Z.
  - rewrite (real_is_zero _ Z). cbn. rewrite real_zero. split; lra.
  - destruct (negative q) eqn:N; cbn [fst snd].
    + apply real_negative in N. split; [destruct u as [u|] | destruct l as [l|]];
        cbn in *; trivial; rewrite real_mul; apply Rmult_le_compat_neg_l; lra.
    + apply real_not_negative in N. split; [destruct l as [l|] | destruct u as [u|]];
        cbn in *; trivial; rewrite real_mul; apply Rmult_le_compat_l; lra.
Qed.

Lemma both_inside : forall e f x y, inside e x -> inside f y ->
  inside (both (fst e) (fst f), both (snd e) (snd f)) (x + y).
Proof.
  intros [[a|] [b|]] [[c|] [d|]] x y [A B] [C D]; unfold inside in *; cbn in *;
    split; trivial; rewrite real_add; lra.
Qed.

Lemma reached_inside : forall w es h, (length w <= length h)%nat -> all_inside es h ->
  inside (reached w es) (dot w h).
Proof.
  induction w as [|q w IH]; intros es h L A.
  - cbn. unfold inside; cbn. rewrite real_zero. split; lra.
  - destruct h as [|x h]; cbn in L; [lia|]. cbn [reached dot].
    apply both_inside.
    + apply times_inside. destruct es as [|e es]; cbn in *; [split; exact I | tauto].
    + apply IH; [lia|]. destruct es as [|e es]; cbn in *; [exact I | tauto].
Qed.

Lemma reached_row_inside : forall r es h, (length (fst r) <= length h)%nat -> all_inside es h ->
  inside (reached_row r es) (preactivation h r).
Proof.
  intros [w b] es h L A. destruct (reached_inside w es h L A) as [B C].
  unfold reached_row, preactivation, inside; cbn [fst snd] in *.
  destruct (reached w es) as [[l|] [u|]]; cbn in *; rewrite ?real_add; split; trivial; lra.
Qed.

Lemma kinked_at_real : forall a z, Q2R (kinked_at a z) = kinked (Q2R a) (Q2R z).
Proof.
  intros. unfold kinked_at. destruct (negative z) eqn:E.
  - apply real_negative in E. rewrite real_mul. unfold kinked. cases; lra.
  - apply real_not_negative in E.
    unfold kinked. rewrite Rmax_left, Rmin_right by lra. ring.
Qed.

Lemma kinked_monotone : forall a x y, 0 <= a -> x <= y -> kinked a x <= kinked a y.
Proof.
  intros a x y A L. unfold kinked.
  assert (a * Rmin x 0 <= a * Rmin y 0) by (apply Rmult_le_compat_l; [exact A | cases; lra]).
  assert (Rmax x 0 <= Rmax y 0) by (cases; lra). lra.
Qed.

Lemma image_inside : forall a e z, inside e z -> inside (image a e) (meaning other a z).
Proof.
  intros a e z H. pose proof (meaning_obeys other a other_lawful) as O.
  assert (B : inside (lower (laws a), upper (laws a)) (meaning other a z)).
  { split; cbn [fst snd].
    - pose proof (is_above _ _ O). destruct (lower (laws a)); cbn in *; auto.
    - pose proof (is_below _ _ O). destruct (upper (laws a)); cbn in *; auto. }
  destruct a as [slope| | | | | |]; try exact B.
  unfold image. destruct (negative slope) eqn:N; [exact B|].
  apply real_not_negative in N.
  destruct B as [B C], H as [D E], e as [[l|] [u|]]; unfold inside; cbn [fst snd meaning holds] in *;
    rewrite ?kinked_at_real; split; trivial; apply kinked_monotone; assumption.
Qed.

Lemma after_inside : forall l es h, all_inside es h ->
  forallb (fun r => Nat.eqb (length (fst r)) (length h)) (rows l) = true ->
  all_inside (after l es) (applied other l h).
Proof.
  intros l es h A. unfold after, applied, affine.
  induction (rows l) as [|r rs IH]; intros S; [exact I|].
  cbn [forallb map all_inside] in *. apply andb_true_iff in S as [S T].
  apply Nat.eqb_eq in S. split; [|apply IH, T].
  apply image_inside, reached_row_inside; [lia | exact A].
Qed.

(** Laws *)

Lemma dot_trimmed : forall w h, dot (trimmed w) h = dot w h.
Proof.
  intros. unfold trimmed. destruct (all_zero w) eqn:E; [|reflexivity].
  rewrite (dot_zero _ h E). destruct h; reflexivity.
Qed.

Lemma worth_linear : forall w b v h i, worth (linear w b v) h i = at_ v i * (dot w h + Q2R b).
Proof. intros. unfold worth, linear; cbn. rewrite dot_trimmed. reflexivity. Qed.

Lemma worth_constant : forall q v h i, worth (constant q v) h i = at_ v i * Q2R q.
Proof. intros. unfold worth, constant; cbn. ring. Qed.

Lemma dot_reduced : forall q w h, dot (reduced q w) h = Q2R q * dot w h.
Proof.
  intros q w h. revert w.
  induction h as [|x h IH]; intros [|p w]; cbn [reduced map dot]; try ring.
  fold (reduced q w). rewrite IH, real_red, real_mul. ring.
Qed.

Lemma ramp_terms_sum : forall es w b v h i, (length w <= length h)%nat -> all_inside es h ->
  sum (ramp_terms es w b v) h i = at_ v i * relu (dot w h + Q2R b).
Proof.
  intros es w b v h i L A. unfold ramp_terms.
  pose proof (reached_row_inside (w, b) es h L A) as [B C].
  destruct (reached_row (w, b) es) as [low high]. unfold preactivation in B, C; cbn [fst snd] in *.
  destruct (at_least_zero low) eqn:E.
  { destruct low as [low|]; [|discriminate]. cbn in *. apply real_le in E. rewrite real_zero in E.
    rewrite worth_linear. unfold relu. rewrite Rmax_left by lra. ring. }
  clear E. destruct (at_most_zero high) eqn:E.
  { destruct high as [high|]; [|discriminate]. cbn in *. apply real_le in E. rewrite real_zero in E.
    unfold relu. rewrite Rmax_right by lra. ring. }
  clear E. destruct (is_zero (lead w)) eqn:Z; [cbn [sum]; unfold worth; cbn [form weights bias column of_form]; ring|].
  pose proof (real_sign _ Z) as P. rewrite real_size in P.
  pose proof (real_inverse _ Z) as T.
  set (z := dot w h + Q2R b).
  assert (W : dot (reduced (inverse (lead w)) w) h + Q2R (Qred (mul (inverse (lead w)) b))
    = / Q2R (lead w) * z).
  { rewrite dot_reduced. autorewrite with real. rewrite T. unfold z. ring. }
  assert (N0 : Q2R (lead w) <> 0) by (intro H; rewrite H, Rabs_R0 in P; lra).
  destruct (negative (lead w)) eqn:N.
  - apply real_negative in N. rewrite Rabs_left in P by exact N.
    cbn [sum]. rewrite worth_linear. unfold worth; cbn [form weights bias column of_form].
    rewrite W, at_opposite, at_scaled, real_size, (Rabs_left _ N).
    assert (E : relu z = - Q2R (lead w) * relu (- (/ Q2R (lead w) * z))).
    { rewrite <- relu_scaled by exact P. f_equal. field. exact N0. }
    rewrite E, (relu_turned (/ Q2R (lead w) * z)). ring.
  - apply real_not_negative in N. assert (M : 0 < Q2R (lead w)) by lra.
    cbn [sum]. unfold worth; cbn [form weights bias column of_form].
    rewrite W, at_scaled, real_size, Rabs_pos_eq by lra.
    assert (E : relu z = Q2R (lead w) * relu (/ Q2R (lead w) * z)).
    { rewrite <- relu_scaled by exact M. f_equal. field. exact N0. }
    rewrite E. ring.
Qed.

Lemma turned_sum : forall a w b v h i,
  sum (turned a w b v) h i = at_ v i * meaning other a (dot w h + Q2R b).
Proof.
  intros a w b v h i. pose proof (meaning_obeys other a other_lawful) as O.
  assert (Same : sum [Term (Through a) (trimmed w) b v] h i
    = at_ v i * meaning other a (dot w h + Q2R b)).
  { cbn [sum]. unfold worth; cbn [form weights bias column of_form]. rewrite dot_trimmed. ring. }
  assert (General : sum
    match reflection (laws a) with
    | Some (sign, slope, offset) =>
        if negative (lead (trimmed w ++ [b])) then
          [Term (Through a) (opposite (trimmed w)) (Qopp b) (scaled sign v);
           linear (opposite (trimmed w)) (Qopp b) (scaled slope v); constant offset v]
        else [Term (Through a) (trimmed w) b v]
    | None => [Term (Through a) (trimmed w) b v]
    end h i = at_ v i * meaning other a (dot w h + Q2R b)).
  { pose proof (reflects _ _ O) as F.
    destruct (reflection (laws a)) as [[[sign slope] offset]|]; [|exact Same].
    destruct (negative (lead (trimmed w ++ [b]))); [|exact Same].
    cbn [holds] in F. cbn [sum]. rewrite worth_linear, worth_constant.
    unfold worth; cbn [form weights bias column of_form].
    rewrite !dot_opposite, !at_scaled, Q2R_opp, dot_trimmed.
    replace (- dot w h + - Q2R b) with (- (dot w h + Q2R b)) by ring.
    set (z := dot w h + Q2R b).
    replace z with (- - z) at 3 by ring. rewrite (F (- z)). ring. }
  unfold turned. cbv zeta. destruct (trimmed w) as [|x u] eqn:E; [|exact General].
  destruct (is_zero b) eqn:B; [|exact General].
  pose proof (has_zero_value _ _ O) as V.
  destruct (zero_value (laws a)) as [q|]; [|exact General].
  cbn [sum]. rewrite worth_constant. cbn in V. rewrite <- V.
  rewrite <- (dot_trimmed w), E, (real_is_zero _ B). replace (dot [] h) with 0 by (destruct h; reflexivity).
  rewrite !Rplus_0_r. reflexivity.
Qed.

Lemma canonical_sum : forall es t h i, (length (weights t) <= length h)%nat -> all_inside es h ->
  sum (canonical es t) h i = worth t h i.
Proof.
  intros es [f w b v] h i L A. unfold canonical; cbn [form weights bias column] in *.
  unfold worth; cbn [form weights bias column].
  destruct f as [| |[a|low high| | | | |s]]; cbn [of_form meaning].
  - cbn [sum]. rewrite worth_linear. ring.
  - apply ramp_terms_sum; assumption.
  - rewrite sum_app, ramp_terms_sum by assumption. cbn [sum]. rewrite worth_linear.
    rewrite !at_scaled, real_sub, real_one, kinked_relu. ring.
  - destruct (Qle_bool low high) eqn:E; [|cbn [sum]; unfold worth; cbn [form weights bias column of_form meaning]; ring].
    apply real_le in E. rewrite !sum_app, !ramp_terms_sum by assumption.
    cbn [sum]. rewrite worth_constant, at_opposite, !real_sub, (clip_relus _ _ _ E).
    replace (dot w h + Q2R b - Q2R low) with (dot w h + (Q2R b - Q2R low)) by ring.
    replace (dot w h + Q2R b - Q2R high) with (dot w h + (Q2R b - Q2R high)) by ring.
    ring.
  - rewrite turned_sum. reflexivity.
  - rewrite sum_app, turned_sum. cbn [sum meaning]. rewrite worth_constant.
    rewrite at_scaled, dot_scaled, real_mul, sigmoid_tanh.
    replace (Q2R (1 # 2)) with (/ 2) by (unfold Q2R; simpl; lra).
    rewrite <- Rmult_plus_distr_l. ring.
  - rewrite turned_sum. reflexivity.
  - rewrite turned_sum. reflexivity.
  - rewrite turned_sum. reflexivity.
Qed.

(** What is left *)

Definition row_at (m : list (list Q)) (i : nat) : list Q := nth i m [].

Lemma add_outer_row : forall v w m h i,
  dot (row_at (add_outer v w m) i) h = at_ v i * dot w h + dot (row_at m i) h.
Proof.
  induction v as [|c v IH]; intros w m h i; cbn [add_outer].
  - rewrite at_nil. ring.
  - destruct i as [|i]; unfold row_at, at_; cbn [nth].
    + replace (nth 0 m []) with (hd [] m) by (destruct m; reflexivity).
      destruct (is_zero c) eqn:E.
      * rewrite (real_is_zero _ E). ring.
      * rewrite dot_plus, dot_scaled. reflexivity.
    + fold (row_at (add_outer v w (tl m)) i) (at_ v i). rewrite IH. f_equal.
      destruct m as [|r m]; [destruct i|]; reflexivity.
Qed.

Lemma point_near : forall a b, 
  match point a b with
  | Some (c, e) => Rabs (meaning other a (Q2R b) - Q2R c) <= Q2R e
  | None => True
  end.
Proof.
  intros [ | | | | | |] b; cbn [point]; trivial.
  pose proof (tanh_between_encloses b) as H. destruct (tanh_between b) as [low high].
  cbn [meaning]. autorewrite with real. replace (Q2R (1 # 2)) with (/ 2) by (unfold Q2R; simpl; lra).
  apply Rabs_le. lra.
Qed.

Lemma at_sizes : forall v i, at_ (map size v) i = Rabs (at_ v i).
Proof.
  induction v as [|x v IH]; intros [|i]; unfold at_ in *; cbn [map nth];
    rewrite ?real_zero, ?Rabs_R0, ?real_size; try reflexivity. apply IH.
Qed.

Lemma remaining_sum : forall ts r, remaining ts = Some r -> forall h i,
  Rabs (sum ts h i - (dot (row_at (matrix r) i) h + at_ (center r) i)) <= at_ (radius r) i.
Proof.
  induction ts as [|t ts IH]; intros r E h i; cbn [remaining] in E.
  - inversion E; subst; cbn [sum matrix center radius]. unfold row_at. rewrite !at_nil.
    replace (dot (nth i [] []) h) with 0 by (destruct i, h; reflexivity).
    rewrite Rplus_0_l, Rminus_0_r, Rabs_R0. lra.
  - destruct (remaining ts) as [s|]; [|discriminate]. specialize (IH s eq_refl h i).
    cbn [sum]. destruct t as [f w b v]. unfold worth.
    cbn [form weights bias column] in *.
    destruct f as [| |a]; [| discriminate |].
    + inversion E; subst; clear E; cbn [matrix center radius of_form].
      rewrite add_outer_row, at_plus, at_scaled.
      replace (at_ v i * (dot w h + Q2R b) + sum ts h i
        - (at_ v i * dot w h + dot (row_at (matrix s) i) h + (Q2R b * at_ v i + at_ (center s) i)))
        with (sum ts h i - (dot (row_at (matrix s) i) h + at_ (center s) i)) by ring.
      exact IH.
    + destruct w as [|q w]; [|discriminate].
      pose proof (point_near a b) as P. destruct (point a b) as [[c e]|]; [|discriminate].
      inversion E; subst; clear E; cbn [matrix center radius of_form].
      rewrite !at_plus, !at_scaled, at_sizes. replace (dot [] h) with 0 by (destruct h; reflexivity).
      rewrite Rplus_0_l.
      replace (at_ v i * meaning other a (Q2R b) + sum ts h i
        - (dot (row_at (matrix s) i) h + (Q2R c * at_ v i + at_ (center s) i)))
        with (at_ v i * (meaning other a (Q2R b) - Q2R c)
          + (sum ts h i - (dot (row_at (matrix s) i) h + at_ (center s) i))) by ring.
      apply Rle_trans with (1 := Rabs_triang _ _). rewrite Rabs_mult.
      assert (Rabs (at_ v i) * Rabs (meaning other a (Q2R b) - Q2R c) <= Rabs (at_ v i) * Q2R e)
        by (apply Rmult_le_compat_l; [apply Rabs_pos | exact P]).
      lra.
Qed.

Lemma residual_bounds : forall ts e, residual ts = Some e -> forall h i,
  Rabs (sum ts h i) <= at_ e i.
Proof.
  intros ts e E h i. unfold residual in E.
  destruct (remaining ts) as [r|] eqn:R; [|discriminate].
  destruct (forallb all_zero (matrix r)) eqn:Z; inversion E; subst; clear E.
  pose proof (remaining_sum ts r R h i) as H. rewrite at_plus, at_sizes.
  assert (dot (row_at (matrix r) i) h = 0) as D.
  { apply dot_zero. unfold row_at. destruct (Nat.lt_ge_cases i (length (matrix r))) as [I|I].
    - rewrite forallb_forall in Z. apply Z, nth_In, I.
    - rewrite nth_overflow by exact I. reflexivity. }
  rewrite D, Rplus_0_l in H.
  replace (sum ts h i) with (at_ (center r) i + (sum ts h i - at_ (center r) i)) by ring.
  apply Rle_trans with (1 := Rabs_triang _ _). lra.
Qed.

Theorem bounded_sum : forall n es ts e, bounded n es ts = Some e -> forall h i,
  length h = n -> all_inside es h -> Rabs (sum ts h i) <= at_ e i.
Proof.
  intros n es ts e E h i L A. unfold bounded in E.
  destruct (forallb _ (group ts)) eqn:F; [|discriminate].
  rewrite <- (sum_group ts). replace (sum (group ts) h i)
    with (sum (group (flat_map (canonical es) (group ts))) h i).
  - apply residual_bounds, E.
  - rewrite sum_group. clear E. induction (group ts) as [|t us IH]; [reflexivity|].
    cbn [forallb flat_map] in *. apply andb_true_iff in F as [F G].
    rewrite sum_app, (IH G). cbn [sum]. f_equal.
    apply canonical_sum; [|exact A]. apply Nat.leb_le in F. lia.
Qed.

End Meaning.
