From Moduli Require Import Checker Fewest.
Print Assumptions checker_sound.
Print Assumptions checker_sound_defined.
Print Assumptions fewest_sound.
Print Assumptions fewest_sound_defined.
